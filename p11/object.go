package p11

import (
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// sessionObjectBit is set in the handles of session objects, which are counted from a random number on; token objects' handles are 62 bits of a digest.
const sessionObjectBit ObjectHandle = 1 << 62

// object is a Cryptoki object. Immutable; C_SetAttributeValue puts another one in its place.
type object struct {
	handle     ObjectHandle
	class      ObjectClass
	private    bool // CKA_PRIVATE
	attributes attributes

	public crypto.PublicKey            // of keys
	tpm    *use                        // of token keys, both halves
	key    func() (*signer.Key, error) // of private halves: the key as it is used without a PIN of its own, made once and never closed
	entry  keystore.Entry              // of token objects: the key, for a certificate the one whose chain it was found in
	owner  SessionHandle               // of session objects

	info  *keystore.SecretInfo // of secret keys, and of data; both hide their value unless it is among the attributes
	value *secret.Bytes        // what a session object hides
	shown int                  // bytes of a session object's attributes
}

// tokenHandle is an object's handle, the same in every process, and its CKA_UNIQUE_ID. identity is the key's Name or the certificate's DER.
func tokenHandle(serial string, class ObjectClass, identity []byte) (ObjectHandle, string) {
	h := sha256.New()
	h.Write([]byte(serial))
	h.Write(ulong(uint64(class)))
	h.Write(identity)
	digest := h.Sum(nil)
	return ObjectHandle(binary.BigEndian.Uint64(digest[len(digest)-8:])) &^ (3 << 62), hex.EncodeToString(digest)
}

// common are the storage attributes (PKCS #11 v3.1, section 4.4). A stored certificate has its key's label and CKA_ID, and cannot be
// changed itself.
func common(class ObjectClass, token, private bool, label string, id []byte) attributes {
	a := make(attributes, mostHave)
	a[CKA_CLASS] = ulong(uint64(class))
	a.setBools(token, CKA_TOKEN)
	a.setBools(private, CKA_PRIVATE)
	a.setBools(class != CKO_CERTIFICATE || !token, CKA_MODIFIABLE)
	a.setBools(false, CKA_COPYABLE)
	a.setBools(true, CKA_DESTROYABLE)
	a[CKA_LABEL], a[CKA_ID] = []byte(label), id
	return a
}

// object looks up what the session may see: CKR_OBJECT_HANDLE_INVALID for all else.
func (s *session) object(h ObjectHandle) (*object, error) {
	o, err := s.lib.lookup(s.slot, h)
	if err != nil {
		return nil, err
	}
	if o == nil || o.awaitsLogin() && !s.userOrOpen() {
		return nil, CKR_OBJECT_HANDLE_INVALID
	}
	return o, nil
}

// awaitsLogin tells whether it takes a login to the token to reach the object. Not so a private key with a PIN of its own: the token's
// PIN opens nothing of it. It hides like what is private from who looks around, and not from who knows its handle or its Name.
func (o *object) awaitsLogin() bool {
	return o.private && (o.class != CKO_PRIVATE_KEY || !o.entry.OwnPIN)
}

// add makes a session object.
func (s *session) add(o *object) (ObjectHandle, error) {
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	s.lib.lastObject++
	o.handle, o.owner = s.lib.lastObject, s.handle
	o.attributes[CKA_UNIQUE_ID] = []byte(hex.EncodeToString(ulong(uint64(o.handle))))
	o.shown = o.size()
	switch {
	case s.lib.sessions[s.handle] == nil:
		o.value.Wipe()
		return 0, CKR_SESSION_HANDLE_INVALID
	case o.private && s.slot.role() != keystore.User: // logged out meanwhile
		o.value.Wipe()
		return 0, CKR_USER_NOT_LOGGED_IN
	case !s.slot.fits(o):
		o.value.Wipe()
		return 0, CKR_DEVICE_MEMORY
	}
	s.slot.objects[o.handle] = o
	return o.handle, nil
}

// bare is what an operation has of its key. What a session object shows of itself may be long, and goes with the object.
func (o *object) bare() *object {
	if o.owner == 0 {
		return o
	}
	key := *o
	key.attributes = nil
	return &key
}
