package version

import "testing"

func TestVersionsOfGitDescribe(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]byte{
		"v0.3.1-4-gabcdef0":       {0, 3},
		"v0.3.1-4-gabcdef0-dirty": {0, 3},
		"v1.20":                   {1, 20},
		"2.0.0-rc1":               {2, 0},
		"v255.255.9":              {255, 255},
		"unknown":                 {},
		"":                        {},
		"d48dd5f":                 {}, // a checkout without tags
		"1234567":                 {},
		"v1":                      {},
		"v1.":                     {},
		"v256.1":                  {},
		"v-1.2":                   {},
		"v1.x":                    {},
	} {
		if major, minor := parse(text); [2]byte{major, minor} != want {
			t.Errorf("%q is %d.%d, want %d.%d", text, major, minor, want[0], want[1])
		}
	}
}
