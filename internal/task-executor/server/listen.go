// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

func baseContext(ctx context.Context) func(net.Listener) context.Context {
	return func(net.Listener) context.Context { return ctx }
}

// Serve serves on l, of whose connections only so many may be strangers', until ctx is done, and then gives open requests grace to end. It closes l.
func Serve(ctx context.Context, srv *http.Server, l net.Listener, grace time.Duration) error {
	l = newStrangers(l, maxStrangers)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }() // ends with Shutdown or Close
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := srv.Shutdown(stopping)
	if err != nil {
		err = errors.Join(fmt.Errorf("end open requests: %w", err), srv.Close())
	}
	if serveErr := <-ended; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve %s: %w", l.Addr(), serveErr))
	}
	return err
}
