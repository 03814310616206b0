package transport

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseReadsAddresses(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("s", 106)
	for _, c := range []struct {
		address string
		want    Dialer
	}{
		{"", &deviceDialer{paths: []string{"/dev/tpmrm0", "/dev/tpm0"}}},
		{"device:/dev/tpmrm0", &deviceDialer{"device:/dev/tpmrm0", []string{"/dev/tpmrm0"}}},
		{"device:/dev/tpm1", &deviceDialer{"device:/dev/tpm1", []string{"/dev/tpm1"}}},
		{"swtpm:path=/run/s", &swtpmDialer{"swtpm:path=/run/s", "unix", "/run/s"}},
		{"swtpm:path=/run/a=b", &swtpmDialer{"swtpm:path=/run/a=b", "unix", "/run/a=b"}},
		{"swtpm:path=" + long, &swtpmDialer{"swtpm:path=" + long, "unix", long}},
		{"swtpm:host=127.0.0.1,port=2400", &swtpmDialer{"swtpm:host=127.0.0.1,port=2400", "tcp", "127.0.0.1:2400"}},
		{"swtpm:port=65535,host=tpm.example", &swtpmDialer{"swtpm:port=65535,host=tpm.example", "tcp", "tpm.example:65535"}},
		{"swtpm:host=::1", &swtpmDialer{"swtpm:host=::1", "tcp", "[::1]:2321"}},
		{"mssim:host=127.0.0.1", &mssimDialer{"mssim:host=127.0.0.1", "127.0.0.1:2321", "127.0.0.1:2322"}},
		{"mssim:host=127.0.0.1,port=65534", &mssimDialer{"mssim:host=127.0.0.1,port=65534", "127.0.0.1:65534", "127.0.0.1:65535"}},
	} {
		got, err := Parse(c.address)
		if err != nil {
			t.Errorf("%q: %v", c.address, err)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(deviceDialer{}, swtpmDialer{}, mssimDialer{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.address, diff)
		}
		if c.address != "" && got.String() != c.address {
			t.Errorf("%q calls itself %q", c.address, got)
		}
	}
}

func TestParseRefusesWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	for address, reason := range map[string]string{
		"/dev/tpmrm0":                 "unknown kind",
		"tabrmd:bus_name=com.intel":   "unknown kind",
		"Device:/dev/tpm0":            "unknown kind",
		" ":                           "unknown kind",
		"device":                      "not an absolute path",
		"device:":                     "not an absolute path",
		"device:tpm0":                 "not an absolute path",
		"swtpm":                       "not key=value",
		"swtpm:":                      "not key=value",
		"swtpm:/run/s":                "not key=value",
		"swtpm:path=":                 "not an absolute path",
		"swtpm:path=run/s":            "not an absolute path",
		"swtpm:path=/run/s,port=2321": "comma",
		"swtpm:path=/" + strings.Repeat("s", 107): "at most 107",
		"swtpm:host=h,path=/run/s":                `unknown key "path"`,
		"swtpm:port=2321":                         "host is missing",
		"swtpm:host=":                             "not key=value",
		"swtpm:host=a,host=b":                     `"host" is given twice`,
		"swtpm:host=a,port=0":                     "1 to 65535",
		"swtpm:host=a,port=65536":                 "1 to 65535",
		"swtpm:host=a,port=-1":                    "1 to 65535",
		"swtpm:host=a,port=http":                  "1 to 65535",
		"swtpm:host=a,":                           "not key=value",
		"mssim:path=/run/s":                       `unknown key "path"`,
		"mssim:host=a,port=65535":                 "no port after it",
	} {
		_, err := Parse(address)
		if !errors.Is(err, ErrAddress) {
			t.Errorf("%q: error %v, want ErrAddress", address, err)
			continue
		}
		for _, part := range []string{reason, address, "device:/dev/tpmrm0", "swtpm:path=", "swtpm:host=", "mssim:host="} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: the error %q does not say %q", address, err, part)
			}
		}
	}
}
