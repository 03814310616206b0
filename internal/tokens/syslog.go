package tokens

import (
	"log/slog"
	"log/syslog"
)

// newSyslogHandler writes to the system's log; network and address are those of log/syslog.Dial, empty for the local one.
func newSyslogHandler(network, address string, level slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: withoutTimeAndLevel}
	handlers := make(bySeverity)
	for level, severity := range map[slog.Level]syslog.Priority{
		slog.LevelError: syslog.LOG_ERR,
		slog.LevelWarn:  syslog.LOG_WARNING,
		slog.LevelInfo:  syslog.LOG_INFO,
		slog.LevelDebug: syslog.LOG_DEBUG,
	} {
		handlers[level] = slog.NewTextHandler(daemon{network, address, syslog.LOG_DAEMON | severity}, options)
	}
	return handlers
}

// withoutTimeAndLevel leaves out what the system's log adds itself.
func withoutTimeAndLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

// daemon sends each write to the system's log as one message. Like appender it keeps no descriptor.
type daemon struct {
	network, address string
	priority         syslog.Priority
}

func (d daemon) Write(line []byte) (int, error) {
	w, err := syslog.Dial(d.network, d.address, d.priority, "tpm2-p11")
	if err != nil {
		return 0, err
	}
	defer w.Close()
	return w.Write(line)
}

// syslogAnswers tells whether somebody takes the system's log.
func syslogAnswers() error {
	w, err := syslog.Dial("", "", syslog.LOG_DAEMON, "tpm2-p11")
	if err != nil {
		return err
	}
	return w.Close()
}
