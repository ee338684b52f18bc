// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profileHeap keeps a profile of the controller's memory, if profiles are wanted.
func (e *env) profileHeap(ctx context.Context) error {
	if !e.options.Profile {
		return nil
	}
	return errors.Join(e.profile(ctx, "heap", "heap?gc=1"), e.profile(ctx, "goroutine", "goroutine"))
}

// profileCPU begins to take a profile of the controller's CPU time, if profiles are wanted. The function it returns waits for
// its end.
func (e *env) profileCPU(ctx context.Context, name string, d time.Duration) (wait func() error) {
	if !e.options.Profile {
		return func() error { return nil }
	}
	taken := make(chan error, 1)
	seconds := max(1, int(d.Seconds()))
	go func() { taken <- e.profile(ctx, "cpu-"+name, fmt.Sprintf("profile?seconds=%d", seconds)) }()
	return func() error { return <-taken }
}

func (e *env) profile(ctx context.Context, name, query string) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.pprofURL+query, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("take a profile: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("take a profile: %s", resp.Status)
	}
	title := strings.NewReplacer(" ", "-", "/", "of").Replace(e.title)
	file, err := os.Create(filepath.Join(e.options.Results, title+"-"+name+".pprof"))
	if err != nil {
		return err
	}
	_, err = io.Copy(file, resp.Body)
	return errors.Join(err, file.Close())
}
