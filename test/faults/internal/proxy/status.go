// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The replies say in the API server's own words what it would say, so that no client can tell them apart; these texts are
// what to look for in a log.
var (
	errConflict = errors.New("the object has been modified; please apply your changes to the latest version and try again")
	errInternal = errors.New("etcdserver: leader changed")
)

// statusOf returns the API server's reply for the faults that are one.
func statusOf(kind Kind, req request) (metav1.Status, bool) {
	var err *apierrors.StatusError
	switch kind {
	case Conflict:
		err = apierrors.NewConflict(req.resource, req.name, errConflict)
	case TooManyRequests:
		err = apierrors.NewTooManyRequests("Too many requests, please try again later.", 1)
	case InternalError:
		err = apierrors.NewInternalError(errInternal)
	case LostReply:
		err = apierrors.NewTimeoutError("request did not complete within requested timeout - context deadline exceeded", 0)
	case RepeatedWrite:
		err = apierrors.NewInternalError(errInternal)
		err.ErrStatus.Details.RetryAfterSeconds = 1
	case ExpiredWatch, ExpiredEvent:
		err = apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %s", req.version))
	case RefusedWatchList:
		err = apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "watch", req.resource, "",
			"sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled", 0, true)
	default:
		return metav1.Status{}, false
	}
	status := err.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return status, true
}

// replyOf returns a Status as the reply to a request. It is JSON whatever the client accepts, as the API server's are where it
// can't do better: clients go by the content type.
func replyOf(status metav1.Status, r *http.Request) (*http.Response, error) {
	body, err := json.Marshal(status)
	if err != nil {
		return nil, fmt.Errorf("encode a status: %w", err)
	}
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-cache, private")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		header.Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	return &http.Response{
		StatusCode: int(status.Code), Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
	}, nil
}
