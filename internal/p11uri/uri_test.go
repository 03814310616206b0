package p11uri

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in string
		want     URI
	}{
		{"the scheme alone names everything", "pkcs11:", URI{Path: Attributes{}}},
		{"the scheme in capitals", "PKCS11:object=web", URI{Path: Attributes{Object: "web"}}},
		{"token and object", "pkcs11:token=my%20server;object=web", URI{Path: Attributes{Token: "my server", Object: "web"}}},
		{"an identifier of any bytes", "pkcs11:id=%00%ff%3B;type=private", URI{Path: Attributes{ID: "\x00\xff;", Type: "private"}}},
		{"characters that need no encoding", "pkcs11:object=a:b[c]@!$'()*+,=&-._~", URI{Path: Attributes{Object: "a:b[c]@!$'()*+,=&-._~"}}},
		{"an empty value is a value", "pkcs11:object=", URI{Path: Attributes{Object: ""}}},
		{"numbers without leading zeros", "pkcs11:slot-id=0001;library-version=3", URI{Path: Attributes{SlotID: "1", LibraryVersion: "3.0"}}},
		{"all that a token has", "pkcs11:serial=0123;manufacturer=m;model=t", URI{Path: Attributes{Serial: "0123", Manufacturer: "m", Model: "t"}}},
		{"a PIN file by path", "pkcs11:object=web?pin-source=/etc/pin", URI{Path: Attributes{Object: "web"}, PINSource: "/etc/pin"}},
		{"a PIN file by URI", "pkcs11:?pin-source=file:/etc/my%20pin", URI{Path: Attributes{}, PINSource: "/etc/my pin"}},
		{"a PIN file by URI with an empty authority", "pkcs11:?pin-source=file:///etc/pin", URI{Path: Attributes{}, PINSource: "/etc/pin"}},
		{"a module", "pkcs11:object=web?module-path=/usr/lib/my%20x.so", URI{Path: Attributes{Object: "web"}, ModulePath: "/usr/lib/my x.so"}},
		{"what nobody here reads", "pkcs11:object=web?module-name=x&x-vendor=1", URI{Path: Attributes{Object: "web"}}},
		{"an empty query", "pkcs11:object=web?", URI{Path: Attributes{Object: "web"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, says string }{
		{"another scheme", "file:/x", "does not start with"},
		{"an attribute nobody knows", "pkcs11:object=web;colour=red", `"colour"`},
		{"a vendor's attribute, which would select nothing", "pkcs11:x-vendor=1", `"x-vendor"`},
		{"an attribute in capitals", "pkcs11:Object=web", `"Object"`},
		{"an attribute twice", "pkcs11:object=a;object=b", "twice"},
		{"no value", "pkcs11:object", "attribute=value"},
		{"a lone separator", "pkcs11:object=a;", "attribute=value"},
		{"a space", "pkcs11:object=my key", "%20"},
		{"a slash", "pkcs11:object=a/b", "%2F"},
		{"text outside ASCII", "pkcs11:object=clé", "%C3"},
		{"a cut percent-encoding", "pkcs11:object=a%2", "two hex digits"},
		{"a false percent-encoding", "pkcs11:object=%zz", "two hex digits"},
		{"a label that is not text", "pkcs11:object=%ff", "UTF-8"},
		{"a type nobody knows", "pkcs11:type=key", "none of"},
		{"a slot that is no number", "pkcs11:slot-id=-1", "decimal"},
		{"a version that is no number", "pkcs11:library-version=1.x", "decimal"},
		{"a PIN", "pkcs11:object=web?pin-value=hunter2", "pin-source"},
		{"a PIN among the attributes", "pkcs11:object=web;pin-value=hunter2", "?pin-source"},
		{"a PIN alone among the attributes", "pkcs11:object=web;hunter2", "part 2"},
		{"two PIN files", "pkcs11:?pin-source=/a&pin-source=/b", "twice"},
		{"a relative PIN file", "pkcs11:?pin-source=hunter2", "absolute path"},
		{"an empty PIN file", "pkcs11:?pin-source=", "absolute path"},
		{"a PIN file on another host", "pkcs11:?pin-source=file://host/hunter2", "absolute path"},
		{"a command that tells the PIN", "pkcs11:?pin-source=%7Chunter2", "command"},
		{"an option for a module", "pkcs11:?module-path=--provider=x.so", "path of one module"},
		{"two modules", "pkcs11:?module-path=/a.so&module-path=/b.so", "one module"},
		{"a query without value", "pkcs11:?hunter2", "attribute=value"},
		{"a very long URI", "pkcs11:object=" + strings.Repeat("a", maxLength), "long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(c.in)
			if !errors.Is(err, ErrSyntax) {
				t.Fatalf("got %v, want ErrSyntax", err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q repeats the query", err)
			}
		})
	}
}

func TestStringReadsBack(t *testing.T) {
	t.Parallel()
	u := URI{Path: Attributes{Type: "private", ID: "\x01a\xff", Token: "my server", Object: "ключ;/"}}
	const want = "pkcs11:token=my%20server;object=%D0%BA%D0%BB%D1%8E%D1%87%3B%2F;id=%01%61%FF;type=private"
	if u.String() != want {
		t.Fatalf("got  %s\nwant %s", u, want)
	}
	back, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(u, back); d != "" {
		t.Error(d)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	have := Attributes{Token: "server", Object: "web", Model: ""}
	for uri, want := range map[string]bool{
		"pkcs11:":                           true,
		"pkcs11:object=web":                 true,
		"pkcs11:token=server;object=web":    true,
		"pkcs11:model=":                     true,
		"pkcs11:object=":                    false,
		"pkcs11:object=Web":                 false,
		"pkcs11:object=web;serial=01":       false,
		"pkcs11:object=web;token=elsewhere": false,
	} {
		u, err := Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if got := u.Matches(have); got != want {
			t.Errorf("%s: got %v, want %v", uri, got, want)
		}
	}
}

func TestReadPIN(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, path := range []string{
		file("plain", "1234 5", 0o600),
		file("line", "1234 5\n", 0o640),
		file("dos", "1234 5\r\n", 0o400),
	} {
		pin, err := URI{PINSource: path}.ReadPIN()
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if string(pin.Bytes()) != "1234 5" {
			t.Errorf("%s: read another PIN", path)
		}
		pin.Wipe()
	}
	for path, says := range map[string]string{
		file("empty", "\n", 0o600):                     "empty",
		file("lines", "12345\nabc\n", 0o600):           "more than one line",
		file("world", "12345", 0o644):                  "mode 0644",
		file("group", "12345", 0o660):                  "mode 0660",
		file("long", strings.Repeat("1", 2000), 0o600): "more than 256 bytes",
		dir:                             "not a regular file",
		filepath.Join(dir, "not there"): "no such file",
	} {
		_, err := URI{PINSource: path}.ReadPIN()
		if !errors.Is(err, ErrPINFile) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error that says %q", path, err, says)
		} else if strings.Contains(err.Error(), "12345") {
			t.Errorf("%q holds the PIN", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"pkcs11:", "pkcs11:token=a%20b;object=c;id=%00%01;type=private?pin-source=file:/p",
		"pkcs11:slot-id=01;library-version=2.40?pin-value=1", "pkcs11:object=%", "PKCS11:serial=;model=&=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		back, err := Parse(u.String())
		if err != nil {
			t.Fatalf("%q was written as %q: %v", s, u, err)
		}
		if d := cmp.Diff(u.Path, back.Path); d != "" {
			t.Errorf("%q was written as %q: %s", s, u, d)
		}
		if u.PINSource != "" && !filepath.IsAbs(u.PINSource) {
			t.Errorf("%q: PIN file %q", s, u.PINSource)
		}
	})
}
