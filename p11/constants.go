package p11

// Names and numbers are Cryptoki's own (PKCS #11 v3.1, appendix B); only those in use are here.

// Vendor attributes.
const (
	// CKA_TPM2_POLICY is the key's policy as text, empty for none. In C_GenerateKeyPair's private
	// template it takes a PCR selection, "sha256:0,1,2,7", which binds the key to the current values, or a policy tree in JSON. In
	// templates of secret keys and data it does the same.
	CKA_TPM2_POLICY AttributeType = 0x80544B11
	// CKA_TPM2_NAME is the TPM Name of the key: its name algorithm (2 bytes) and the digest of its public area.
	CKA_TPM2_NAME AttributeType = 0x80544B12
	// CKM_TPM2_KMS_UNWRAP and CKM_TPM2_KMS_DATA_KEY have AWS KMS release keys to an attested machine.
	CKM_TPM2_KMS_UNWRAP   MechanismType = 0x80544B01
	CKM_TPM2_KMS_DATA_KEY MechanismType = 0x80544B02

	// CKA_TPM2_KMS_CIPHERTEXT is a secret key as AWS KMS encrypted it, for keys that came from there.
	CKA_TPM2_KMS_CIPHERTEXT AttributeType = 0x80544B13
)

// Object classes.
const (
	CKO_DATA        ObjectClass = 0
	CKO_CERTIFICATE ObjectClass = 1
	CKO_PUBLIC_KEY  ObjectClass = 2
	CKO_PRIVATE_KEY ObjectClass = 3
	CKO_SECRET_KEY  ObjectClass = 4
	CKO_PROFILE     ObjectClass = 9
)

// Key types, and the one certificate type.
const (
	CKK_RSA            uint64 = 0
	CKK_EC             uint64 = 3
	CKK_GENERIC_SECRET uint64 = 0x10
	CKK_AES            uint64 = 0x1f
	CKK_SHA_1_HMAC     uint64 = 0x28
	CKK_SHA256_HMAC    uint64 = 0x2b
	CKK_SHA384_HMAC    uint64 = 0x2c
	CKK_SHA512_HMAC    uint64 = 0x2d
	CKK_SHA224_HMAC    uint64 = 0x2e
	CKC_X_509          uint64 = 0
)

// Profiles.
const (
	CKP_BASELINE_PROVIDER         uint64 = 1
	CKP_EXTENDED_PROVIDER         uint64 = 2
	CKP_AUTHENTICATION_TOKEN      uint64 = 3
	CKP_PUBLIC_CERTIFICATES_TOKEN uint64 = 4
)

// Certificate categories.
const (
	CK_CERTIFICATE_CATEGORY_UNSPECIFIED uint64 = 0
	CK_CERTIFICATE_CATEGORY_TOKEN_USER  uint64 = 1
	CK_CERTIFICATE_CATEGORY_AUTHORITY   uint64 = 2
	CK_CERTIFICATE_CATEGORY_OTHER       uint64 = 3
)

// CK_UNAVAILABLE_INFORMATION stands for a number that cannot be told.
const CK_UNAVAILABLE_INFORMATION uint64 = ^uint64(0)

// Attributes.
const (
	CKA_CLASS                      AttributeType = 0x0
	CKA_TOKEN                      AttributeType = 0x1
	CKA_PRIVATE                    AttributeType = 0x2
	CKA_LABEL                      AttributeType = 0x3
	CKA_UNIQUE_ID                  AttributeType = 0x4
	CKA_APPLICATION                AttributeType = 0x10
	CKA_VALUE                      AttributeType = 0x11
	CKA_OBJECT_ID                  AttributeType = 0x12
	CKA_CERTIFICATE_TYPE           AttributeType = 0x80
	CKA_ISSUER                     AttributeType = 0x81
	CKA_SERIAL_NUMBER              AttributeType = 0x82
	CKA_TRUSTED                    AttributeType = 0x86
	CKA_CERTIFICATE_CATEGORY       AttributeType = 0x87
	CKA_JAVA_MIDP_SECURITY_DOMAIN  AttributeType = 0x88
	CKA_URL                        AttributeType = 0x89
	CKA_HASH_OF_SUBJECT_PUBLIC_KEY AttributeType = 0x8a
	CKA_HASH_OF_ISSUER_PUBLIC_KEY  AttributeType = 0x8b
	CKA_NAME_HASH_ALGORITHM        AttributeType = 0x8c
	CKA_CHECK_VALUE                AttributeType = 0x90
	CKA_KEY_TYPE                   AttributeType = 0x100
	CKA_SUBJECT                    AttributeType = 0x101
	CKA_ID                         AttributeType = 0x102
	CKA_SENSITIVE                  AttributeType = 0x103
	CKA_ENCRYPT                    AttributeType = 0x104
	CKA_DECRYPT                    AttributeType = 0x105
	CKA_WRAP                       AttributeType = 0x106
	CKA_UNWRAP                     AttributeType = 0x107
	CKA_SIGN                       AttributeType = 0x108
	CKA_SIGN_RECOVER               AttributeType = 0x109
	CKA_VERIFY                     AttributeType = 0x10a
	CKA_VERIFY_RECOVER             AttributeType = 0x10b
	CKA_DERIVE                     AttributeType = 0x10c
	CKA_START_DATE                 AttributeType = 0x110
	CKA_END_DATE                   AttributeType = 0x111
	CKA_MODULUS                    AttributeType = 0x120
	CKA_MODULUS_BITS               AttributeType = 0x121
	CKA_PUBLIC_EXPONENT            AttributeType = 0x122
	CKA_PRIVATE_EXPONENT           AttributeType = 0x123
	CKA_PRIME_1                    AttributeType = 0x124
	CKA_PRIME_2                    AttributeType = 0x125
	CKA_EXPONENT_1                 AttributeType = 0x126
	CKA_EXPONENT_2                 AttributeType = 0x127
	CKA_COEFFICIENT                AttributeType = 0x128
	CKA_PUBLIC_KEY_INFO            AttributeType = 0x129
	CKA_VALUE_LEN                  AttributeType = 0x161
	CKA_EXTRACTABLE                AttributeType = 0x162
	CKA_LOCAL                      AttributeType = 0x163
	CKA_NEVER_EXTRACTABLE          AttributeType = 0x164
	CKA_ALWAYS_SENSITIVE           AttributeType = 0x165
	CKA_KEY_GEN_MECHANISM          AttributeType = 0x166
	CKA_MODIFIABLE                 AttributeType = 0x170
	CKA_COPYABLE                   AttributeType = 0x171
	CKA_DESTROYABLE                AttributeType = 0x172
	CKA_EC_PARAMS                  AttributeType = 0x180
	CKA_EC_POINT                   AttributeType = 0x181
	CKA_ALWAYS_AUTHENTICATE        AttributeType = 0x202
	CKA_WRAP_WITH_TRUSTED          AttributeType = 0x210
	CKA_PROFILE_ID                 AttributeType = 0x601
	CKA_ALLOWED_MECHANISMS         AttributeType = 0x40000600
)

// Mechanisms.
const (
	CKM_RSA_PKCS_KEY_PAIR_GEN  MechanismType = 0x0
	CKM_RSA_PKCS               MechanismType = 0x1
	CKM_RSA_X_509              MechanismType = 0x3
	CKM_SHA1_RSA_PKCS          MechanismType = 0x6
	CKM_RSA_PKCS_OAEP          MechanismType = 0x9
	CKM_RSA_PKCS_PSS           MechanismType = 0xd
	CKM_SHA1_RSA_PKCS_PSS      MechanismType = 0xe
	CKM_SHA256_RSA_PKCS        MechanismType = 0x40
	CKM_SHA384_RSA_PKCS        MechanismType = 0x41
	CKM_SHA512_RSA_PKCS        MechanismType = 0x42
	CKM_SHA256_RSA_PKCS_PSS    MechanismType = 0x43
	CKM_SHA384_RSA_PKCS_PSS    MechanismType = 0x44
	CKM_SHA512_RSA_PKCS_PSS    MechanismType = 0x45
	CKM_SHA_1                  MechanismType = 0x220
	CKM_SHA_1_HMAC             MechanismType = 0x221
	CKM_SHA_1_HMAC_GENERAL     MechanismType = 0x222
	CKM_SHA256                 MechanismType = 0x250
	CKM_SHA256_HMAC            MechanismType = 0x251
	CKM_SHA256_HMAC_GENERAL    MechanismType = 0x252
	CKM_SHA224                 MechanismType = 0x255
	CKM_SHA224_HMAC            MechanismType = 0x256
	CKM_SHA224_HMAC_GENERAL    MechanismType = 0x257
	CKM_SHA384                 MechanismType = 0x260
	CKM_SHA384_HMAC            MechanismType = 0x261
	CKM_SHA384_HMAC_GENERAL    MechanismType = 0x262
	CKM_SHA512                 MechanismType = 0x270
	CKM_SHA512_HMAC            MechanismType = 0x271
	CKM_SHA512_HMAC_GENERAL    MechanismType = 0x272
	CKM_GENERIC_SECRET_KEY_GEN MechanismType = 0x350
	CKM_EC_KEY_PAIR_GEN        MechanismType = 0x1040
	CKM_ECDSA                  MechanismType = 0x1041
	CKM_ECDSA_SHA1             MechanismType = 0x1042
	CKM_ECDH1_DERIVE           MechanismType = 0x1050
	CKM_ECDSA_SHA256           MechanismType = 0x1044
	CKM_ECDSA_SHA384           MechanismType = 0x1045
	CKM_ECDSA_SHA512           MechanismType = 0x1046
	CKM_AES_KEY_GEN            MechanismType = 0x1080
	CKM_AES_CBC                MechanismType = 0x1082
	CKM_AES_CBC_PAD            MechanismType = 0x1085
	CKM_AES_CTR                MechanismType = 0x1086
	CKM_AES_GCM                MechanismType = 0x1087
	CKM_AES_KEY_WRAP           MechanismType = 0x2109
	CKM_AES_KEY_WRAP_PAD       MechanismType = 0x210a
	CKM_AES_KEY_WRAP_KWP       MechanismType = 0x210b
	CKM_AES_KEY_WRAP_PKCS7     MechanismType = 0x210c
)

// Key derivation functions.
const (
	CKD_NULL       uint64 = 1
	CKD_SHA256_KDF uint64 = 6
	CKD_SHA384_KDF uint64 = 7
	CKD_SHA512_KDF uint64 = 8
)

// Mask generation functions and the OAEP source type.
const (
	CKG_MGF1_SHA1      uint64 = 1
	CKG_MGF1_SHA256    uint64 = 2
	CKG_MGF1_SHA384    uint64 = 3
	CKG_MGF1_SHA512    uint64 = 4
	CKZ_DATA_SPECIFIED uint64 = 1
)

// Flags of C_Initialize, slots, sessions, tokens and mechanisms.
const (
	CKF_LIBRARY_CANT_CREATE_OS_THREADS Flags = 0x1

	CKF_TOKEN_PRESENT Flags = 0x1
	CKF_HW_SLOT       Flags = 0x4

	CKF_DONT_BLOCK Flags = 0x1

	CKF_RW_SESSION     Flags = 0x2
	CKF_SERIAL_SESSION Flags = 0x4

	CKF_RNG                  Flags = 0x1
	CKF_WRITE_PROTECTED      Flags = 0x2
	CKF_LOGIN_REQUIRED       Flags = 0x4
	CKF_USER_PIN_INITIALIZED Flags = 0x8
	CKF_TOKEN_INITIALIZED    Flags = 0x400
	CKF_USER_PIN_COUNT_LOW   Flags = 0x10000
	CKF_USER_PIN_FINAL_TRY   Flags = 0x20000
	CKF_USER_PIN_LOCKED      Flags = 0x40000
	CKF_SO_PIN_COUNT_LOW     Flags = 0x100000
	CKF_SO_PIN_FINAL_TRY     Flags = 0x200000
	CKF_SO_PIN_LOCKED        Flags = 0x400000

	CKF_HW                Flags = 0x1
	CKF_MESSAGE_SIGN      Flags = 0x8
	CKF_MESSAGE_VERIFY    Flags = 0x10
	CKF_MULTI_MESSAGE     Flags = 0x20
	CKF_FIND_OBJECTS      Flags = 0x40
	CKF_ENCRYPT           Flags = 0x100
	CKF_DECRYPT           Flags = 0x200
	CKF_DIGEST            Flags = 0x400
	CKF_SIGN              Flags = 0x800
	CKF_SIGN_RECOVER      Flags = 0x1000
	CKF_VERIFY            Flags = 0x2000
	CKF_VERIFY_RECOVER    Flags = 0x4000
	CKF_GENERATE          Flags = 0x8000
	CKF_GENERATE_KEY_PAIR Flags = 0x10000
	CKF_DERIVE            Flags = 0x80000
	CKF_WRAP              Flags = 0x20000
	CKF_UNWRAP            Flags = 0x40000
	CKF_EC_F_P            Flags = 0x100000
	CKF_EC_NAMEDCURVE     Flags = 0x800000
	CKF_EC_UNCOMPRESS     Flags = 0x1000000
)

// CKS_LAST_VALIDATION_OK is the one kind of validation flags.
const CKS_LAST_VALIDATION_OK ValidationFlagsType = 1

// Users.
const (
	CKU_SO               UserType = 0
	CKU_USER             UserType = 1
	CKU_CONTEXT_SPECIFIC UserType = 2
)

// Session states.
const (
	CKS_RO_PUBLIC_SESSION State = 0
	CKS_RO_USER_FUNCTIONS State = 1
	CKS_RW_PUBLIC_SESSION State = 2
	CKS_RW_USER_FUNCTIONS State = 3
	CKS_RW_SO_FUNCTIONS   State = 4
)
