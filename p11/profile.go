package p11

// The profiles that a token here meets (PKCS #11 Profiles v3.2, section 5), with what the tests in tests/ hold it to:
//   - Baseline Provider: the function lists, sessions, searches and attributes;
//   - Extended Provider: mechanisms and logins, C_LoginUser among them;
//   - Authentication Token: private keys that sign after a login, and their public halves;
//   - Public Certificates Token: certificates and public keys are found without a login, by the CKA_ID of the private key.
var profiles = []uint64{CKP_BASELINE_PROVIDER, CKP_EXTENDED_PROVIDER, CKP_AUTHENTICATION_TOKEN, CKP_PUBLIC_CERTIFICATES_TOKEN}

// profilesOf are the objects that say so.
func profilesOf(serial string) (objects []*object) {
	for _, profile := range profiles {
		objects = append(objects, profileObject(serial, profile))
	}
	return objects
}

// profileObject says that a token meets a profile (PKCS #11 v3.2, section 4.13).
func profileObject(serial string, profile uint64) *object {
	handle, unique := tokenHandle(serial, CKO_PROFILE, ulong(profile))
	return &object{handle: handle, class: CKO_PROFILE, attributes: attributes{
		CKA_CLASS:       ulong(uint64(CKO_PROFILE)),
		CKA_TOKEN:       boolean(true),
		CKA_PRIVATE:     boolean(false),
		CKA_MODIFIABLE:  boolean(false),
		CKA_COPYABLE:    boolean(false),
		CKA_DESTROYABLE: boolean(false),
		CKA_LABEL:       []byte{},
		CKA_UNIQUE_ID:   []byte(unique),
		CKA_PROFILE_ID:  ulong(profile),
	}}
}
