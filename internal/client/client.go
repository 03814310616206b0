package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

const (
	tries        = 12                   // to connect: a server may be about to start
	firstPause   = 4 * time.Millisecond // between the first and the second; then twice as long each time
	longestPause = 500 * time.Millisecond
	greeting     = 10 * time.Second // that a server may take over what touches no TPM
	resends      = 5                // of a request, to as many servers that end
	most         = 32               // operations at once: a server works on 64 calls of a client
)

// The flags of C_OpenSession, and users of C_Login.
const (
	serialSession   = 4
	user            = 1
	contextSpecific = 2
)

// Client is an application at a server. Safe for concurrent use.
type Client struct {
	path   string
	places chan struct{} // one for each operation

	ctx    context.Context // until Close
	cancel context.CancelFunc

	// turn is held while a connection is made, since the others need it too, and guards what follows.
	turn  chan struct{}
	conn  *conn
	login *login // to be made again on a new connection
}

// login is what the user of a token gave.
type login struct {
	slot uint64
	pin  *secret.Bytes
}

// New makes a client of the server at a socket. Nothing is connected yet.
func New(path string) *Client {
	c := &Client{path: path, places: make(chan struct{}, most), turn: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends the connection, and with it all that the client has open. Operations that wait fail.
func (c *Client) Close() {
	c.cancel()
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.forgetLogin()
	if c.conn != nil {
		c.conn.close()
	}
	c.conn = nil
}

func (c *Client) forgetLogin() {
	if c.login != nil {
		c.login.pin.Wipe()
	}
	c.login = nil
}

// Login gives the PIN of a token's user, now and after each loss of the connection. A PIN that is wrong then is not tried again.
func (c *Client) Login(ctx context.Context, slot uint64, pin *secret.Bytes) error {
	return c.do(ctx, func(n *conn) error {
		l := &login{slot, pin.Clone()}
		err := once(n.logIn(ctx, l))
		if err == nil {
			err = c.enter(ctx)
		}
		if err != nil {
			l.pin.Wipe()
			return err
		}
		defer func() { <-c.turn }()
		c.forgetLogin()
		c.login = l
		return nil
	})
}

// once makes a loss of the connection an end: what was sent gave a PIN, and each wrong one counts.
func once(err error) error {
	if errors.Is(err, errLost) {
		return fmt.Errorf("%w: %v", ErrUnreachable, err)
	}
	return err
}

// enter takes the turn.
func (c *Client) enter(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return ErrClosed
	}
	if c.ctx.Err() != nil {
		<-c.turn
		return ErrClosed
	}
	return nil
}

// do runs something that changes nothing over a connection, and again over another one if that is lost.
func (c *Client) do(ctx context.Context, run func(*conn) error) error {
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for n := 0; ; n++ {
		conn, err := c.connected(ctx)
		if err != nil {
			return err
		}
		err = run(conn)
		if !errors.Is(err, errLost) {
			return err
		}
		if n == resends || ctx.Err() != nil {
			return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.path, err)
		}
	}
}

// connected gives the connection, or makes one.
func (c *Client) connected(ctx context.Context) (*conn, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer func() { <-c.turn }()
	if c.conn != nil && c.conn.ended() == nil {
		return c.conn, nil
	}
	if c.conn != nil {
		c.conn.close()
		c.conn = nil
	}
	connecting, cancel := context.WithTimeout(ctx, greeting)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	var err error
	for n, pause := 1, firstPause; ; n, pause = n+1, min(2*pause, longestPause) {
		if c.conn, err = c.connect(connecting); err == nil {
			return c.conn, nil
		}
		if n == tries || !worthWaiting(err) {
			break
		}
		select {
		case <-time.After(pause):
			continue
		case <-connecting.Done():
		}
		break
	}
	c.conn = nil
	switch {
	case c.ctx.Err() != nil:
		return nil, ErrClosed
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if !worthWaiting(err) {
		return nil, err
	}
	return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.path, err)
}

// worthWaiting tells whether a later try may succeed: waiting helps against a server that starts, not against missing rights.
func worthWaiting(err error) bool {
	var rv RV
	return !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrNoAccess) && !errors.As(err, &rv)
}

// noAccess says what lets this process in.
func (c *Client) noAccess() error {
	return fmt.Errorf("%w: the one at %s does not let user %d in: name it, its keys and purposes in an [[access]] table of the server's configuration, and reload that",
		ErrNoAccess, c.path, os.Geteuid())
}

// connect is one try. The turn is held.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	var dialer net.Dialer
	n, err := dialer.DialContext(ctx, "unix", c.path)
	if errors.Is(err, fs.ErrPermission) { // a server without [[access]] tables opens its socket to nobody
		return nil, fmt.Errorf("%w (%w)", c.noAccess(), err)
	}
	if err != nil {
		return nil, err
	}
	conn := newConn(n)
	err = conn.call(ctx, callInitialize, func(w *wire.Writer) { w.Bool(false); w.Uint64(0) }, nil)
	if errors.Is(err, RVFunctionRejected) {
		err = c.noAccess()
	}
	if err == nil && c.login != nil {
		if err = once(conn.logIn(ctx, c.login)); errors.Is(err, RVPINIncorrect) {
			c.forgetLogin()
		}
	}
	if err != nil {
		conn.close()
		return nil, err
	}
	return conn, nil
}
