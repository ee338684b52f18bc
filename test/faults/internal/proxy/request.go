// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// verb is what a request does, as far as faults are concerned.
type verb int

const (
	verbGet    verb = iota // reads one object, or what is no resource
	verbList               // reads a collection
	verbWatch              // is told of changes until one side ends it
	verbCreate             // POST
	verbUpdate             // PUT, PATCH
	verbDelete             // DELETE
)

// request is what the proxy understands of one.
type request struct {
	verb          verb
	resource      schema.GroupResource // none for what is no resource, as /version
	name          string               // none for a collection
	version       string               // resourceVersion
	match         string               // resourceVersionMatch
	initialEvents bool                 // sendInitialEvents
	paged         bool                 // asks for a part of a list
	continued     bool                 // asks for a further part
}

// parse reads a request by the rules of the Kubernetes API: /api/v1/... or /apis/GROUP/VERSION/..., then namespaces/NAMESPACE
// or nothing, then RESOURCE[/NAME[/SUBRESOURCE]].
func parse(method string, u *url.URL) request {
	query := u.Query()
	req := request{
		version: query.Get("resourceVersion"), match: query.Get("resourceVersionMatch"),
		initialEvents: isTrue(query.Get("sendInitialEvents")),
		paged:         query.Get("limit") != "" && query.Get("limit") != "0", continued: query.Get("continue") != "",
	}
	req.resource, req.name = resourceOf(u.Path)
	switch {
	case method == http.MethodPost:
		req.verb = verbCreate
	case method == http.MethodPut, method == http.MethodPatch:
		req.verb = verbUpdate
	case method == http.MethodDelete:
		req.verb = verbDelete
	case req.resource.Resource == "":
		req.verb = verbGet
	case isTrue(query.Get("watch")):
		req.verb = verbWatch
	case req.name == "":
		req.verb = verbList
	default:
		req.verb = verbGet
	}
	return req
}

// resourceOf returns the resource of a path, and the object's name if it names one.
func resourceOf(path string) (schema.GroupResource, string) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var group string
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = parts[1], parts[3:]
	default:
		return schema.GroupResource{}, ""
	}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		parts = parts[2:]
	}
	var name string
	if len(parts) > 1 {
		name = parts[1]
	}
	return schema.GroupResource{Group: group, Resource: parts[0]}, name
}

func isTrue(value string) bool {
	is, err := strconv.ParseBool(value)
	return err == nil && is
}

func (r request) isWrite() bool {
	return r.verb == verbCreate || r.verb == verbUpdate || r.verb == verbDelete
}

func (r request) isLease() bool {
	return r.resource == schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
}

// anyVersion says whether the request is a list that Kubernetes itself may answer from any time in the past. A list without a
// resource version is a consistent read, and one with another version than 0 must be as new as that.
func (r request) anyVersion() bool {
	return r.verb == verbList && r.version == "0" && !r.continued && (r.match == "" || r.match == "NotOlderThan")
}

// answersAnyVersion says whether the reply to a list is one that a later list at any version may get: it is whole. (The API
// server ignores the limit of a list at resourceVersion=0.)
func (r request) answersAnyVersion() bool {
	return r.anyVersion() || r.verb == verbList && r.version == "" && !r.paged && !r.continued
}
