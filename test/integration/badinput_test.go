// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// Every mistake becomes a condition with what to change, and an event; another batch is served beside it; and it heals when
// the input does, where it can be changed.
func TestBadInputIsToldAndHarmsNothingElse(t *testing.T) {
	tasks := func(command ...string) *v1alpha1.TaskTemplate {
		return &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: command}}}
	}
	cases := map[string]struct {
		make      func() *v1alpha1.BatchSandbox
		condition string
		reason    string
		says      string
		heal      func(s *space)
		ready     int
	}{
		"unknown pool": {
			make:      func() *v1alpha1.BatchSandbox { return makeBatch("bad", "nowhere", 1) },
			condition: v1alpha1.ConditionAllocated, reason: v1alpha1.ReasonPoolNotFound, says: "nowhere",
			heal: func(s *space) { s.create(makePool("nowhere", 1, 1, 0, 2)) }, ready: 1,
		},
		"template the API server refuses": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "", 1)
				sb.Spec.Template = raw(`{"spec":{"containers":[{"name":"No Such Name","image":"nginx"}]}}`)
				return sb
			},
			condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTemplate, says: "No Such Name",
			heal: func(s *space) { s.patch(s.batch("bad"), `{"spec":{"template":`+simpleTemplate+`}}`) }, ready: 1,
		},
		"template that is no pod template": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "", 1)
				sb.Spec.Template = raw(`{"spec":{"containers":"many"}}`)
				return sb
			},
			condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTemplate, says: "containers",
			heal: func(s *space) { s.patch(s.batch("bad"), `{"spec":{"template":`+simpleTemplate+`}}`) }, ready: 1,
		},
		"patch that removes the containers": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "", 2)
				sb.Spec.ShardPatches = []v1alpha1.RawObject{*raw(`{}`), *raw(`{"spec":{"containers":[{"$patch":"replace"}]}}`)}
				return sb
			},
			condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidShardPatch, says: "shardPatches[1]",
			heal: func(s *space) { s.patch(s.batch("bad"), `{"spec":{"shardPatches":null}}`) }, ready: 2,
		},
		"patch that renames the pod": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "", 1)
				sb.Spec.ShardPatches = []v1alpha1.RawObject{*raw(`{"metadata":{"name":"mine"}}`)}
				return sb
			},
			condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidShardPatch, says: "name",
			heal: func(s *space) { s.patch(s.batch("bad"), `{"spec":{"shardPatches":null}}`) }, ready: 1,
		},
		"task without command": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "good", 1)
				sb.Spec.TaskTemplate = tasks([]string{}...)
				sb.Spec.TaskTemplate.Spec.Process.Command = []string{}
				return sb
			},
			condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTask, says: "command",
		},
		"task patch of another shape": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "good", 1)
				sb.Spec.TaskTemplate = tasks("true")
				sb.Spec.ShardTaskPatches = []v1alpha1.RawObject{*raw(`{"spec":{"process":{"command":7}}}`)}
				return sb
			},
			condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTask, says: "shardTaskPatches[0]",
		},
		"malformed annotation": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "good", 1)
				sb.Annotations = map[string]string{v1alpha1.AllocStatusAnnotation: `{"pods":`}
				return sb
			},
			condition: v1alpha1.ConditionAllocated, reason: v1alpha1.ReasonInvalidAnnotation, says: v1alpha1.AllocStatusAnnotation,
			heal: func(s *space) {
				s.patch(s.batch("bad"), `{"metadata":{"annotations":{"`+v1alpha1.AllocStatusAnnotation+`":null}}}`)
			}, ready: 1,
		},
		"neither poolRef nor template": {
			make: func() *v1alpha1.BatchSandbox {
				sb := makeBatch("bad", "", 1)
				sb.Spec.Template = nil
				return sb
			},
			condition: v1alpha1.ConditionAllocated, reason: v1alpha1.ReasonNoTemplate, says: "poolRef",
			heal: func(s *space) { s.patch(s.batch("bad"), `{"spec":{"template":`+simpleTemplate+`}}`) }, ready: 1,
		},
		"more replicas than fit": {
			make:      func() *v1alpha1.BatchSandbox { return makeBatch("bad", "good", 100000) },
			condition: v1alpha1.ConditionAllocated, reason: v1alpha1.ReasonTooManyReplicas, says: "several batches",
			heal: func(s *space) { s.patch(s.batch("bad"), `{"spec":{"replicas":1}}`) }, ready: 1,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.startController("")
			s.create(makePool("good", 2, 2, 0, 5))
			s.create(c.make())
			message := s.hasReason("bad", c.condition, c.reason)
			if !strings.Contains(message, c.says) {
				t.Errorf("the message %q doesn't speak of %q", message, c.says)
			}
			if phase := s.batch("bad").Status.Phase; phase != v1alpha1.PhaseFailed {
				t.Errorf("phase %s, want Failed", phase)
			}
			s.hasEvent("BatchSandbox", "bad", c.reason)
			s.create(makeBatch("beside", "good", 1))
			s.delivered("beside", 1)
			if c.heal != nil {
				c.heal(s)
				s.delivered("bad", c.ready)
			}
			s.must(s.client.Delete(s.ctx, s.batch("bad")))
			s.gone(makeBatch("bad", "", 1))
		})
	}
}

// hasEvent waits for a warning on an object.
func (s *space) hasEvent(kind, name, reason string) {
	s.t.Helper()
	eventually(s.t, "event "+reason, func() error {
		var events eventsv1.EventList
		if err := s.client.List(s.ctx, &events, client.InNamespace(s.name)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason && e.Type == corev1.EventTypeWarning {
				return nil
			}
		}
		return fmt.Errorf("not among %d events", len(events.Items))
	})
}

func TestNamespaceWhosePodSecurityRefusesThePodsIsTold(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.patch(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}},
		`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`)
	s.create(makeBatch("own", "", 1))
	message := s.hasReason("own", v1alpha1.ConditionReady, v1alpha1.ReasonPodsForbidden)
	if !strings.Contains(message, "PodSecurity") {
		t.Errorf("the message %q doesn't name PodSecurity", message)
	}
	s.create(makePool("p", 1, 1, 0, 1))
	eventually(t, "tell it on the pool", func() error {
		for _, c := range s.pool("p").Status.Conditions {
			if c.Type == v1alpha1.ConditionPodsFailing && c.Status == metav1.ConditionTrue && c.Reason == v1alpha1.ReasonPodsForbidden {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", s.pool("p").Status.Conditions)
	})
	s.patch(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}},
		`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":null}}}`)
	s.delivered("own", 1)
	s.idle("p", 1)
}

func TestPoolWhoseTemplateIsRefusedHealsWhenItIsMended(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	pool := makePool("p", 2, 2, 0, 4)
	pool.Spec.Template = raw(`{"spec":{"containers":[{"name":"No Such Name","image":"nginx"}]}}`)
	s.create(pool)
	eventually(t, "tell it on the pool", func() error {
		for _, c := range s.pool("p").Status.Conditions {
			if c.Type == v1alpha1.ConditionPodsFailing && c.Reason == v1alpha1.ReasonInvalidTemplate && strings.Contains(c.Message, "No Such Name") {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", s.pool("p").Status.Conditions)
	})
	s.hasEvent("Pool", "p", v1alpha1.ReasonInvalidTemplate)
	s.patch(s.pool("p"), `{"spec":{"template":`+simpleTemplate+`}}`)
	s.idle("p", 2)
}

// What the schema refuses, it refuses with a message that says what to change.
func TestTheSchemaRefuses(t *testing.T) {
	s := newSpace(t)
	object := func(kind, name, spec string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		text := fmt.Sprintf(`{"apiVersion":"sandbox.opensandbox.io/v1alpha1","kind":%q,"metadata":{"name":%q,"namespace":%q},"spec":%s}`,
			kind, name, s.name, spec)
		s.must(u.UnmarshalJSON([]byte(text)))
		return u
	}
	pool := func(capacity string) *unstructured.Unstructured {
		return object("Pool", "p", `{"template":`+simpleTemplate+`,"capacitySpec":`+capacity+`}`)
	}
	long := strings.Repeat("x", v1alpha1.MaxNameLength+1)
	cases := map[string]struct {
		obj  *unstructured.Unstructured
		says string
	}{
		"a batch whose name is too long":      {object("BatchSandbox", long, `{}`), "63"},
		"a pool whose name is too long":       {object("Pool", long, `{"template":{},"capacitySpec":{"bufferMin":0,"bufferMax":0,"poolMin":0,"poolMax":0}}`), "63"},
		"negative replicas":                   {object("BatchSandbox", "b", `{"replicas":-1}`), "replicas"},
		"replicas beyond 32 bits":             {object("BatchSandbox", "b", `{"replicas":5000000000}`), "replicas"},
		"a time no parser could read":         {object("BatchSandbox", "b", `{"expireTime":"2030-01-01t00:00:00z"}`), "expireTime"},
		"shardPatches that are no objects":    {object("BatchSandbox", "b", `{"shardPatches":["text"]}`), "shardPatches"},
		"a template that is no object":        {object("BatchSandbox", "b", `{"template":"nginx"}`), "template"},
		"a policy that doesn't exist":         {object("BatchSandbox", "b", `{"taskResourcePolicyWhenCompleted":"Keep"}`), "Retain"},
		"a task without process":              {object("BatchSandbox", "b", `{"taskTemplate":{"spec":{}}}`), "process"},
		"bufferMin above bufferMax":           {pool(`{"bufferMin":3,"bufferMax":2,"poolMin":0,"poolMax":9}`), "bufferMin must not exceed bufferMax"},
		"poolMin above poolMax":               {pool(`{"bufferMin":0,"bufferMax":2,"poolMin":9,"poolMax":3}`), "poolMin must not exceed poolMax"},
		"a pool without capacity":             {object("Pool", "p", `{"template":{}}`), "capacitySpec"},
		"a maxUnavailable beyond 32 bits":     {object("Pool", "p", `{"template":{},"capacitySpec":{"bufferMin":0,"bufferMax":0,"poolMin":0,"poolMax":0},"scaleStrategy":{"maxUnavailable":5000000000}}`), "maxUnavailable"},
		"a maxUnavailable that is no percent": {object("Pool", "p", `{"template":{},"capacitySpec":{"bufferMin":0,"bufferMax":0,"poolMin":0,"poolMax":0},"scaleStrategy":{"maxUnavailable":"many"}}`), "maxUnavailable"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := s.client.Create(s.ctx, c.obj)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want a refusal that speaks of %q", err, c.says)
			}
		})
	}
}

func TestTheSchemaRefusesChangesOfWhatIsImmutable(t *testing.T) {
	s := newSpace(t)
	sb := makeBatch("b", "p", 1)
	sb.Spec.TaskTemplate = &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: []string{"true"}}}}
	sb.Spec.ShardTaskPatches = []v1alpha1.RawObject{*raw(`{"spec":{"process":{"command":["false"]}}}`)}
	s.create(sb)
	for name, patch := range map[string]string{
		"poolRef":                       `{"spec":{"poolRef":"other"}}`,
		"poolRef, removed":              `{"spec":{"poolRef":null}}`,
		"taskTemplate":                  `{"spec":{"taskTemplate":{"spec":{"process":{"command":["other"]}}}}}`,
		"taskTemplate, removed":         `{"spec":{"taskTemplate":null}}`,
		"taskTemplate, an unknown part": `{"spec":{"taskTemplate":{"spec":{"custom":"x"}}}}`,
		"shardTaskPatches":              `{"spec":{"shardTaskPatches":[{"spec":{"process":{"command":["true"]}}}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			err := s.client.Patch(s.ctx, s.batch("b"), client.RawPatch("application/merge-patch+json", []byte(patch)))
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "immutable") {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
	s.patch(s.batch("b"), `{"spec":{"replicas":2,"priority":3}}`)
}

// Every sample is what the API server takes, word for word.
func TestTheSamplesAreAccepted(t *testing.T) {
	s := newSpace(t)
	paths, err := filepath.Glob("../../config/samples/*.yaml")
	s.must(err)
	found := 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		s.must(err)
		for doc := range strings.SplitSeq(string(data), "\n---\n") {
			u := &unstructured.Unstructured{}
			s.must(yamlInto(doc, u))
			if u.GetKind() != "BatchSandbox" && u.GetKind() != "Pool" {
				continue
			}
			found++
			u.SetNamespace(s.name)
			if err := s.client.Create(s.ctx, u, client.FieldValidation("Strict")); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if found < 5 {
		t.Errorf("%d samples, want at least 5", found)
	}
}

// At rest the controller writes nothing.
func TestControllerStaysQuietAtRest(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 2, 2, 0, 5))
	s.create(makeBatch("b", "p", 1))
	s.create(makeBatch("own", "", 1))
	s.delivered("b", 1)
	s.delivered("own", 1)
	s.idle("p", 2)
	var before int
	eventually(t, "settle", func() error {
		now := len(s.writes())
		defer func() { before = now }()
		time.Sleep(7 * time.Second) // longer than the delay of the labels, the last thing that is written
		if now != len(s.writes()) {
			return fmt.Errorf("%d writes, and more", now)
		}
		return nil
	})
	time.Sleep(5 * time.Second)
	if after := len(s.writes()); after != before {
		t.Errorf("%d writes at rest: %v", after-before, s.writes()[before:])
	}
}
