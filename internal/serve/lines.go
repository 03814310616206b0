package serve

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// linesPerSecond is how many warnings about one user's calls are logged, once a burst is over.
const linesPerSecond = 10

// lines are those that the log has of one user's calls: a user who has many fail fills no disk, and crowds no other lines out.
type lines struct {
	pace *pace
	left atomic.Int64 // out, since the last line
}

func newLines() *lines { return &lines{pace: newPace(linesPerSecond)} }

// of is a log that takes a user's lines.
func (l *lines) of(log *slog.Logger) *slog.Logger { return slog.New(sparing{log.Handler(), l}) }

// about is such a log with who a client is.
func (l *lines) about(log *slog.Logger, who peer) *slog.Logger {
	return l.of(log).With(who.attributes()...)
}

// sparing is a log's handler that leaves lines out and tells in the next one how many. What an operator asked for (log_level) is all there.
type sparing struct {
	slog.Handler
	lines *lines
}

func (s sparing) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return s.Handler.Handle(ctx, r)
	}
	if !s.lines.pace.allow() {
		s.lines.left.Add(1)
		return nil
	}
	if n := s.lines.left.Swap(0); n > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int64("left_out", n))
	}
	return s.Handler.Handle(ctx, r)
}

func (s sparing) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sparing{s.Handler.WithAttrs(attrs), s.lines}
}

func (s sparing) WithGroup(name string) slog.Handler {
	return sparing{s.Handler.WithGroup(name), s.lines}
}
