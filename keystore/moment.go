package keystore

import "github.com/tpm2-p11/tpm2-p11/internal/stamp"

// Moment is what a token is at one moment: a single look at its folder answers all questions.
type Moment struct {
	token  *Token
	folder stamp.Stamp
	anchor *anchor // nil before Init
}

// Now looks at the token's folder, and at token.json where that may have changed.
func (t *Token) Now() Moment {
	folder := t.folder.now()
	return Moment{t, folder, t.seen(folder)}
}

// Initialized tells whether Init was done. It is false for a store that was never readable: Check says why.
func (m Moment) Initialized() bool { return m.anchor != nil }

// Label of the token; "" before Init.
func (m Moment) Label() string {
	if m.anchor == nil {
		return ""
	}
	return m.anchor.Label
}

// Serial is 16 hex digits, random at Init; "" before.
func (m Moment) Serial() string {
	if m.anchor == nil {
		return ""
	}
	return m.anchor.Serial
}

// HasPIN tells whether the token asks for a login.
func (m Moment) HasPIN() bool { return m.anchor != nil && m.anchor.PIN != nil }

// HasUserPIN tells whether the user has a PIN: not in a token made with an SO PIN alone, until InitPIN.
func (m Moment) HasUserPIN() bool { return m.HasPIN() && m.anchor.PIN.User != nil }

// Unchanged tells, by looking at the folder and the key's own files alone, that Keys would give the same entry again. Within
// two seconds of any change to the store it is false. What is written into a file, rather than put in its place, it sees within a second.
func (m Moment) Unchanged(e Entry) bool {
	if e.seen.watch != nil && e.seen.watch.sure(m.folder) {
		return true
	}
	d, err := m.token.folder.open()
	if err != nil {
		return false
	}
	defer d.close()
	if !e.seen.folder.Exists() || !e.seen.folder.Same(d.stamp) || !e.seen.files.same(d.filesOf(e.ID)) {
		return false
	}
	e.seen.watch.note(d.stamp)
	return true
}
