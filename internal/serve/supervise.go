package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"
)

const (
	shortLife    = time.Second           // of a process that is started again with a pause
	restartPause = 20 * time.Millisecond // the first; then twice as long each time
	longestPause = time.Second
)

// Supervise keeps a process running that serves the control socket, and starts it again when it dies. It holds the control socket
// meanwhile: what is passed while there is no such process waits for the next one. It returns when that process ends by itself, or
// died with nobody left to be served. command makes the process to be run; the control socket becomes its descriptor 3.
func Supervise(control *os.File, command func() *exec.Cmd, log *slog.Logger) error {
	for pause := restartPause; ; {
		cmd := command()
		cmd.ExtraFiles = []*os.File{control}
		began := time.Now()
		err := cmd.Run()
		if err == nil {
			return nil
		}
		if fdHungUp(int(control.Fd())) {
			return nil
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			log.Error("the helper cannot be started", "reason", err.Error())
		} else {
			log.Warn("the helper died and is started again", "reason", fmt.Sprint(exit))
		}
		if time.Since(began) > shortLife {
			pause = restartPause
			continue
		}
		time.Sleep(pause)
		pause = min(2*pause, longestPause)
	}
}
