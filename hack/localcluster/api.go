// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// client asks the cluster's servers, with the admin's certificate.
type client struct {
	http *http.Client
	base string
}

func (c *cluster) client(base string) (*client, error) {
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(c.cert("ca"))
	if err != nil {
		return nil, err
	}
	pool.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(c.cert("admin"), c.key("admin"))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}
	return &client{base: base, http: &http.Client{Transport: transport, Timeout: 10 * time.Second}}, nil
}

// do sends in as JSON unless it is nil, and decodes the answer into out unless that is nil. It returns the status code;
// an error means that there was no answer.
func (c *client) do(ctx context.Context, method, path string, in, out any) (code int, err error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "localcluster")
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer closeInto(resp.Body, &err)
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if out == nil || resp.StatusCode >= http.StatusMultipleChoices {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.Unmarshal(data, out)
}

// ok says whether the server answers 200 at path; no answer yet is no error.
func (c *client) ok(ctx context.Context, path string) bool {
	code, err := c.do(ctx, http.MethodGet, path, nil, nil)
	return err == nil && code == http.StatusOK
}

// create makes an object; one that is there already will do.
func (c *client) create(ctx context.Context, path string, object any) error {
	code, err := c.do(ctx, http.MethodPost, path, object, nil)
	if err != nil {
		return err
	}
	if code != http.StatusCreated && code != http.StatusConflict {
		return fmt.Errorf("create at %s: status %d", path, code)
	}
	return nil
}

type nodeList struct {
	Items []struct {
		Status struct {
			Conditions []struct {
				Type   string `json:"type"`
				Status string `json:"status"`
			} `json:"conditions"`
		} `json:"status"`
	} `json:"items"`
}

// readyNodes counts the nodes whose condition Ready is true.
func (l nodeList) ready() int {
	n := 0
	for _, node := range l.Items {
		for _, cond := range node.Status.Conditions {
			if cond.Type == "Ready" && cond.Status == "True" {
				n++
			}
		}
	}
	return n
}

// nodesReady says whether there are at least want nodes and all are ready.
func (c *client) nodesReady(ctx context.Context, want int) bool {
	var list nodeList
	code, err := c.do(ctx, http.MethodGet, "/api/v1/nodes", nil, &list)
	return err == nil && code == http.StatusOK && len(list.Items) >= want && list.ready() == len(list.Items)
}
