package serve

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"
)

// Notify tells the service manager something (sd_notify(3)), if there is one.
func Notify(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	if address[0] == '@' {
		address = "\x00" + address[1:]
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}

// KeepAlive tells the service manager's watchdog that this process is well, until ctx ends.
func KeepAlive(ctx context.Context) {
	interval, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || interval <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	tick := time.NewTicker(time.Duration(interval) * time.Microsecond / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			Notify("WATCHDOG=1")
		}
	}
}
