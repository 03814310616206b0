package transport

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// forms are the addresses that Parse reads, for its errors.
const forms = `"device:/dev/tpmrm0", "swtpm:path=/run/swtpm.sock", "swtpm:host=127.0.0.1,port=2321", ` +
	`"mssim:host=127.0.0.1,port=2321", or nothing for the first of /dev/tpmrm0 and /dev/tpm0 that exists`

const (
	defaultPort = 2321
	maxUnixPath = 107 // bytes in sockaddr_un's sun_path, without the NUL
)

// Parse reads an address: "" (the first of /dev/tpmrm0 and /dev/tpm0 that
// exists when Dial is called), "device:/dev/tpmrm0", "swtpm:path=/run/s",
// "swtpm:host=127.0.0.1,port=2321", "mssim:host=127.0.0.1,port=2321". Without a
// port it is 2321; mssim uses the port after it besides. It opens nothing. Its
// errors are ErrAddress and list these forms.
func Parse(address string) (Dialer, error) {
	d, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w; accepted are %s", ErrAddress, address, err, forms)
	}
	return d, nil
}

func parse(address string) (Dialer, error) {
	if address == "" {
		return newDeviceDialer("", "/dev/tpmrm0", "/dev/tpm0"), nil
	}
	kind, rest, _ := strings.Cut(address, ":")
	switch kind {
	case "device":
		if !filepath.IsAbs(rest) {
			return nil, fmt.Errorf("%q is not an absolute path", rest)
		}
		return newDeviceDialer(address, rest), nil
	case "swtpm":
		if path, ok := strings.CutPrefix(rest, "path="); ok {
			if err := checkUnixPath(path); err != nil {
				return nil, err
			}
			return &swtpmDialer{address: address, network: "unix", target: path}, nil
		}
		host, port, err := parseHostPort(rest)
		if err != nil {
			return nil, err
		}
		return &swtpmDialer{address: address, network: "tcp", target: join(host, port)}, nil
	case "mssim":
		host, port, err := parseHostPort(rest)
		if err != nil {
			return nil, err
		}
		if port == 65535 {
			return nil, fmt.Errorf("port %d leaves no port after it for the platform", port)
		}
		return &mssimDialer{address: address, command: join(host, port), platform: join(host, port+1)}, nil
	}
	return nil, fmt.Errorf("unknown kind %q", kind)
}

func join(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func checkUnixPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q is not an absolute path", path)
	case strings.Contains(path, ","):
		return fmt.Errorf("a path with a comma, or more than a path, in %q", path)
	case len(path) > maxUnixPath:
		return fmt.Errorf("a path of %d bytes: a unix socket's has at most %d", len(path), maxUnixPath)
	}
	return nil
}

// parseHostPort reads "host=…,port=…" in any order; the port may be absent.
func parseHostPort(s string) (host string, port int, err error) {
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(field, "=")
		switch {
		case !ok || value == "":
			return "", 0, fmt.Errorf("%q is not key=value", field)
		case seen[key]:
			return "", 0, fmt.Errorf("%q is given twice", key)
		}
		seen[key] = true
		switch key {
		case "host":
			host = value
		case "port":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 {
				return "", 0, fmt.Errorf("port %q is not 1 to 65535", value)
			}
			port = int(n)
		default:
			return "", 0, fmt.Errorf("unknown key %q", key)
		}
	}
	if host == "" {
		return "", 0, fmt.Errorf("the host is missing")
	}
	if port == 0 {
		port = defaultPort
	}
	return host, port, nil
}
