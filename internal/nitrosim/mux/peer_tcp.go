package mux

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// processOfTCP is the process at the other end of a connection from this
// machine, if /proc shows its files to this user.
func processOfTCP(conn net.Conn) (pid int, ok bool) {
	from, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !from.IP.IsLoopback() {
		return 0, false
	}
	inode, ok := inodeOf(from)
	if !ok {
		return 0, false
	}
	files, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return 0, false
	}
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil && target == "socket:["+inode+"]" {
			pid, err := strconv.Atoi(strings.Split(file, "/")[2])
			return pid, err == nil
		}
	}
	return 0, false
}

// inodeOf finds a local socket by its address (proc_pid_net(5), "tcp").
func inodeOf(a *net.TCPAddr) (inode string, ok bool) {
	table, ip := "/proc/net/tcp", a.IP.To4()
	if ip == nil {
		table, ip = "/proc/net/tcp6", a.IP.To16()
	}
	content, err := os.ReadFile(table)
	if err != nil {
		return "", false
	}
	local := procAddress(ip) + ":" + strings.ToUpper(hex.EncodeToString(binary.BigEndian.AppendUint16(nil, uint16(a.Port))))
	for line := range strings.Lines(string(content)) {
		const localField, inodeField = 1, 9
		if f := strings.Fields(line); len(f) > inodeField && f[localField] == local && f[inodeField] != "0" {
			return f[inodeField], true
		}
	}
	return "", false
}

// procAddress writes an address as /proc does: 32-bit words in the machine's
// byte order.
func procAddress(ip net.IP) string {
	var s string
	for word := range slices.Chunk(ip, 4) {
		b := binary.BigEndian.AppendUint32(nil, binary.NativeEndian.Uint32(word))
		s += strings.ToUpper(hex.EncodeToString(b))
	}
	return s
}
