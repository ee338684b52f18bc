// SPDX-License-Identifier: Apache-2.0

// Package audit checks the ledger of who holds which pod, which is in the annotations of the batches, against the pods that
// are there.
package audit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/utils/podutil"
)

// Kind is what is wrong in one word.
type Kind string

const (
	// DoublyHeld: two live batches name one pod, or one names it twice.
	DoublyHeld Kind = "DoublyHeld"

	// MissingPod: a batch names a pod that is not there, or is on its way out.
	MissingPod Kind = "MissingPod"

	// ForeignPod: a batch names a pod of another pool, or of none.
	ForeignPod Kind = "ForeignPod"

	// Unreadable: a batch's list of pods can't be read.
	Unreadable Kind = "Unreadable"

	// WrongLabel: a pod carries the labels of another batch than the one that names it, or of another index.
	WrongLabel Kind = "WrongLabel"

	// LeftBehind: a pod carries a batch's labels, and no batch names it.
	LeftBehind Kind = "LeftBehind"

	// Orphan: a pod of a pool, or of a batch, that is gone, and that nobody holds.
	Orphan Kind = "Orphan"

	// AbovePoolMax: a pool has more pods than it may.
	AbovePoolMax Kind = "AbovePoolMax"

	// WrongEndpoint: the address that a batch tells at an index is not that of its pod.
	WrongEndpoint Kind = "WrongEndpoint"

	// WrongCount: a status counts other pods than there are.
	WrongCount Kind = "WrongCount"
)

// Finding is one thing that is wrong.
type Finding struct {
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace"`

	// Object is what is wrong, as kubectl names it: "pod/p-1".
	Object string `json:"object"`

	// Sentence says what is wrong, Remedy what mends it.
	Sentence string `json:"sentence"`
	Remedy   string `json:"remedy"`

	// Commands mend it, or help to.
	Commands []string `json:"commands,omitempty"`

	// version is the resourceVersion of an object whose status is wrong: one that was written since is not the same finding.
	version string
}

// identity is what stays the same when one looks again.
func (f Finding) identity() string {
	return strings.Join([]string{string(f.Kind), f.Namespace, f.Object, f.Sentence, f.version}, "\x00")
}

// World is what was read of one or of all namespaces.
type World struct {
	Now     time.Time
	Batches []v1alpha1.BatchSandbox
	Pools   []v1alpha1.Pool
	Pods    []corev1.Pod
}

// Result is what an audit found.
type Result struct {
	// Batches, Pools, Pods and Holds are how many were looked at; a hold is a pod that a batch names.
	Batches int `json:"batches"`
	Pools   int `json:"pools"`
	Pods    int `json:"pods"`
	Holds   int `json:"holds"`

	// Findings are wrong, Notes are not: they come right by themselves.
	Findings []Finding `json:"findings"`
	Notes    []string  `json:"notes,omitempty"`
}

// name is a name in a namespace.
type name struct{ namespace, name string }

// hold says that a batch names a pod at an index.
type hold struct {
	batch *v1alpha1.BatchSandbox
	index int
}

// judge is the state of one judgement.
type judge struct {
	world   World
	pods    map[name]*corev1.Pod
	pools   map[name]*v1alpha1.Pool
	batches map[name]*v1alpha1.BatchSandbox
	holds   map[name][]hold
	// unread are namespaces with a batch whose list can't be read: whom its pods belong to is not known.
	unread map[string]bool

	findings  []Finding
	unlabeled map[name]int // by batch
	lost      []string     // notes about pods that were lost and are waited for
}

// Judge compares what batches name with the pods that are there. It is strict: in a world that moves, a look at pods and batches
// at different moments shows differences that are none, so that only what a second look finds too is wrong; see Confirm.
// Batches that are being deleted still hold what they name.
func Judge(w World) Result {
	j := &judge{
		world: w, pods: map[name]*corev1.Pod{}, pools: map[name]*v1alpha1.Pool{}, batches: map[name]*v1alpha1.BatchSandbox{},
		holds: map[name][]hold{}, unread: map[string]bool{}, unlabeled: map[name]int{},
	}
	for i := range w.Pods {
		j.pods[name{w.Pods[i].Namespace, w.Pods[i].Name}] = &w.Pods[i]
	}
	for i := range w.Pools {
		j.pools[name{w.Pools[i].Namespace, w.Pools[i].Name}] = &w.Pools[i]
	}
	r := Result{Batches: len(w.Batches), Pools: len(w.Pools), Findings: []Finding{}}
	for i := range w.Batches {
		r.Holds += j.takeBatch(&w.Batches[i])
	}
	for i := range w.Pods {
		if isOurs(&w.Pods[i]) {
			r.Pods++
		}
	}
	j.judgeHolds()
	j.judgePods()
	j.judgePools()
	j.judgeCounts()
	slices.SortFunc(j.findings, func(a, b Finding) int { return cmp.Compare(a.identity(), b.identity()) })
	r.Findings = append(r.Findings, j.findings...)
	r.Notes = j.notes()
	return r
}

// Confirm keeps of the findings of a second look those that the first had too.
func Confirm(first, second Result) Result {
	seen := map[string]bool{}
	for _, f := range first.Findings {
		seen[f.identity()] = true
	}
	second.Findings = slices.DeleteFunc(slices.Clone(second.Findings), func(f Finding) bool { return !seen[f.identity()] })
	if second.Findings == nil {
		second.Findings = []Finding{}
	}
	return second
}

// isOurs says whether a pod is one of a pool or of a batch.
func isOurs(pod *corev1.Pod) bool {
	return pod.Labels[v1alpha1.PoolNameLabel] != "" || pod.Labels[v1alpha1.BatchNameLabel] != ""
}

// find notes a finding; objects are "pod/p".
func (j *judge) find(kind Kind, namespace, object, sentence string, mend remedy) {
	j.findings = append(j.findings, Finding{Kind: kind, Namespace: namespace, Object: object, Sentence: sentence, Remedy: mend.text, Commands: mend.commands})
}

type remedy struct {
	text     string
	commands []string
}

func kubectl(namespace string, args ...string) string {
	return "kubectl -n " + namespace + " " + strings.Join(args, " ")
}

// takeBatch notes what a batch names, and returns how many pods that are.
func (j *judge) takeBatch(sb *v1alpha1.BatchSandbox) int {
	j.batches[name{sb.Namespace, sb.Name}] = sb
	pods, err := cluster.AllocatedPods(sb)
	if err != nil {
		j.unread[sb.Namespace] = true
		j.find(Unreadable, sb.Namespace, "batchsandbox/"+sb.Name, err.Error(), remedy{
			"repair the annotation: its pods are held as long as the controller remembers them, and not longer",
			[]string{kubectl(sb.Namespace, "edit", "batchsandbox/"+sb.Name)},
		})
		return 0
	}
	n := 0
	for i, pod := range pods {
		if pod != "" {
			n++
			key := name{sb.Namespace, pod}
			j.holds[key] = append(j.holds[key], hold{sb, i})
		}
	}
	return n
}

// judgeHolds looks at each pod that is named. The first row that matches:
//
//	| named by        | the pod                         | finding                                        |
//	| more than once  | -                               | DoublyHeld                                     |
//	| one going batch | not there, or going             | none: that is how it is given back             |
//	| one that waits  | not there                       | none, but a note: it waits for another         |
//	| one batch       | not there, or going for long    | MissingPod                                     |
//	| one batch       | of another pool, or of none     | ForeignPod                                     |
//	| one batch       | labels of another batch, index  | WrongLabel                                     |
//	| one batch       | no labels                       | none, but a note: they come up to minutes late |
func (j *judge) judgeHolds() {
	for key, holds := range j.holds {
		if len(holds) > 1 {
			j.doublyHeld(key, holds)
			continue
		}
		j.judgeHold(key, holds[0])
	}
}

func (j *judge) doublyHeld(key name, holds []hold) {
	who := make([]string, 0, len(holds))
	for _, h := range holds {
		who = append(who, fmt.Sprintf("%s (index %d)", h.batch.Name, h.index))
	}
	slices.Sort(who)
	j.find(DoublyHeld, key.namespace, "pod/"+key.name, fmt.Sprintf("pod %s is held %d times: by %s", key.name, len(holds), strings.Join(who, " and ")), remedy{
		"the controller leaves it to one of them and gives the others another pod; if that doesn't happen within a minute, delete the pod: each gets one of its own. Please report it, with the controller's log",
		[]string{kubectl(key.namespace, "get", "events", "--field-selector", "reason=DoubleAllocation"), kubectl(key.namespace, "delete", "pod", key.name)},
	})
}

func (j *judge) judgeHold(key name, h hold) {
	sb, pod := h.batch, j.pods[key]
	batch := fmt.Sprintf("index %d of batch %s", h.index, sb.Name)
	if sb.DeletionTimestamp != nil && (pod == nil || pod.DeletionTimestamp != nil) {
		return
	}
	mend := remedy{"the controller replaces it; if it doesn't, look whether it runs", []string{"kubectl sandbox -n " + sb.Namespace + " explain " + sb.Name}}
	switch {
	case pod == nil && meta.IsStatusConditionFalse(sb.Status.Conditions, v1alpha1.ConditionAllocated):
		j.lost = append(j.lost, fmt.Sprintf("%s lost pod %s and waits for another", batch, key.name))
	case pod == nil:
		j.find(MissingPod, key.namespace, "batchsandbox/"+sb.Name, fmt.Sprintf("%s names pod %s, which is not there", batch, key.name), mend)
	case j.goingForLong(pod):
		j.find(MissingPod, key.namespace, "batchsandbox/"+sb.Name,
			fmt.Sprintf("%s names pod %s, which should have been gone at %s", batch, key.name, pod.DeletionTimestamp.UTC().Format(time.RFC3339)), mend)
	case pod.Labels[v1alpha1.PoolNameLabel] != sb.Spec.PoolRef:
		j.find(ForeignPod, key.namespace, "batchsandbox/"+sb.Name,
			fmt.Sprintf("%s names pod %s, which is of %s and not of Pool %s", batch, key.name, poolOf(pod), sb.Spec.PoolRef), remedy{
				"somebody edited the annotation: repair it, or delete the batch",
				[]string{kubectl(sb.Namespace, "edit", "batchsandbox/"+sb.Name)},
			})
	default:
		j.judgeLabels(pod, h)
	}
}

// goingGrace is how long after the end of its grace a pod may still be there.
const goingGrace = time.Minute

func (j *judge) goingForLong(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && j.world.Now.Sub(pod.DeletionTimestamp.Time) > goingGrace
}

func poolOf(pod *corev1.Pod) string {
	if pool := pod.Labels[v1alpha1.PoolNameLabel]; pool != "" {
		return "Pool " + pool
	}
	return "no pool"
}

func (j *judge) judgeLabels(pod *corev1.Pod, h hold) {
	batch, index := pod.Labels[v1alpha1.BatchNameLabel], pod.Labels[v1alpha1.PodIndexLabel]
	switch {
	case pod.DeletionTimestamp != nil:
	case batch == "":
		j.unlabeled[name{h.batch.Namespace, h.batch.Name}]++
	case batch != h.batch.Name || index != fmt.Sprint(h.index):
		j.find(WrongLabel, pod.Namespace, "pod/"+pod.Name,
			fmt.Sprintf("pod %s is held by %s at index %d, and its labels say %s, index %s", pod.Name, h.batch.Name, h.index, batch, index), remedy{
				"somebody edited the labels: put them right; who selects pods by them finds the wrong one",
				[]string{kubectl(pod.Namespace, "label", "--overwrite", "pod", pod.Name,
					fmt.Sprintf("%s=%s", v1alpha1.BatchNameLabel, h.batch.Name), fmt.Sprintf("%s=%d", v1alpha1.PodIndexLabel, h.index))},
			})
	}
}

// judgePods looks at each pod that nobody names. The first row that matches:
//
//	| being deleted | made by a batch     | of a pool       | carries a batch's labels | finding    |
//	| yes           | -                   | -               | -                        | none       |
//	| no            | that is gone        | -               | -                        | Orphan     |
//	| no            | no                  | that is gone    | -                        | Orphan     |
//	| no            | no                  | that is there   | yes, and is not marked   | LeftBehind |
//
// Where a list of the namespace can't be read, whom a pod belongs to is not known: nothing is found there.
func (j *judge) judgePods() {
	for key, pod := range j.pods {
		if pod.DeletionTimestamp != nil || len(j.holds[key]) > 0 || j.unread[key.namespace] {
			continue
		}
		remove := remedy{"delete it: nobody uses it", []string{kubectl(key.namespace, "delete", "pod", key.name)}}
		pool := pod.Labels[v1alpha1.PoolNameLabel]
		label := pod.Labels[v1alpha1.BatchNameLabel]
		owner := metav1.GetControllerOf(pod)
		_, marked := pod.Annotations[v1alpha1.RecyclingAnnotation]
		switch {
		case owner != nil && owner.Kind == "BatchSandbox":
			if sb := j.batches[name{key.namespace, owner.Name}]; sb == nil || sb.UID != owner.UID {
				j.find(Orphan, key.namespace, "pod/"+key.name, fmt.Sprintf("pod %s was made by batch %s, which is gone", key.name, owner.Name), remove)
			}
		case pool == "":
		case j.pools[name{key.namespace, pool}] == nil:
			j.find(Orphan, key.namespace, "pod/"+key.name, fmt.Sprintf("pod %s is of Pool %s, which is gone, and nobody holds it", key.name, pool), remove)
		case label != "" && !marked:
			remove.text = "delete it: it can't be handed out again, and the pool makes another"
			j.find(LeftBehind, key.namespace, "pod/"+key.name, fmt.Sprintf("pod %s carries the labels of batch %s, and nobody holds it", key.name, label), remove)
		}
	}
}

// judgePools looks whether a pool has more pods than it may, those that are being deleted included. Where poolMax was lowered,
// only held ones may be too many.
func (j *judge) judgePools() {
	total, unheld := map[name]int{}, map[name]int{}
	for key, pod := range j.pods {
		pool := name{key.namespace, pod.Labels[v1alpha1.PoolNameLabel]}
		total[pool]++
		if len(j.holds[key]) == 0 && pod.DeletionTimestamp == nil && !podutil.HasEnded(pod) {
			unheld[pool]++
		}
	}
	for key, pool := range j.pools {
		most := int(pool.Spec.CapacitySpec.PoolMax)
		if pool.DeletionTimestamp != nil || total[key] <= most || unheld[key] == 0 || pool.Status.ObservedGeneration != pool.Generation {
			continue
		}
		j.find(AbovePoolMax, key.namespace, "pool/"+key.name,
			fmt.Sprintf("Pool %s has %d pods, of which nobody holds %d, and poolMax is %d", key.name, total[key], unheld[key], most), remedy{
				"the controller deletes what is too much; if it doesn't, look whether it runs, and whether pods can be deleted",
				[]string{"kubectl sandbox -n " + key.namespace + " explain pool/" + key.name},
			})
	}
}

// judgeCounts compares what the statuses and endpoints tell with what is named. Where the controller has not looked at an object
// since it was edited nothing is said.
func (j *judge) judgeCounts() {
	for key, sb := range j.batches {
		if sb.Spec.PoolRef == "" || sb.DeletionTimestamp != nil || sb.Status.ObservedGeneration != sb.Generation || j.unread[key.namespace] {
			continue
		}
		j.judgeEndpoints(sb)
		least, most := j.served(sb)
		if n := int(sb.Status.Replicas); n < least || n > most {
			j.miscount(sb, "batchsandbox/"+key.name, fmt.Sprintf("batch %s counts %d pods in status.replicas, and holds %s", key.name, n, between(least, most)))
		}
	}
	held := j.heldOf()
	for key, pool := range j.pools {
		if pool.DeletionTimestamp != nil || pool.Status.ObservedGeneration != pool.Generation || j.unread[key.namespace] {
			continue
		}
		if n := held[key]; n != int(pool.Status.Allocated) {
			j.miscount(pool, "pool/"+key.name, fmt.Sprintf("Pool %s counts %d held pods in status.allocated, and batches hold %d", key.name, pool.Status.Allocated, n))
		}
	}
}

// heldOf counts the pods of each pool that are there and that somebody holds.
func (j *judge) heldOf() map[name]int {
	held := map[name]int{}
	for key := range j.holds {
		if pod := j.pods[key]; pod != nil {
			held[name{key.namespace, pod.Labels[v1alpha1.PoolNameLabel]}]++
		}
	}
	return held
}

func between(least, most int) string {
	if least == most {
		return fmt.Sprint(most)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// miscount notes a status that is wrong.
func (j *judge) miscount(o metav1.Object, object, sentence string) {
	j.find(WrongCount, o.GetNamespace(), object, sentence, remedy{
		"the controller is behind, or doesn't run", []string{"kubectl sandbox -n " + o.GetNamespace() + " explain " + strings.TrimPrefix(object, "batchsandbox/")},
	})
	j.findings[len(j.findings)-1].version = o.GetResourceVersion()
}

// served is how many of the pods that a batch names serve it: least those that are Ready and not being recycled, most also
// those that are there and have not ended. The controller knows more about the others: their nodes.
func (j *judge) served(sb *v1alpha1.BatchSandbox) (least, most int) {
	pods, _ := cluster.AllocatedPods(sb) // what can't be read was found before
	for _, pod := range pods {
		p := j.pods[name{sb.Namespace, pod}]
		if p == nil || p.DeletionTimestamp != nil || podutil.HasEnded(p) {
			continue
		}
		most++
		if _, marked := p.Annotations[v1alpha1.RecyclingAnnotation]; podutil.IsReady(p) && !marked {
			least++
		}
	}
	return least, most
}

// judgeEndpoints looks whether the address at each index is that of the pod there. A lost pod has none.
//
//	| pod at the index          | its address       | finding       |
//	| none, going, or not Ready | none, or its own  | none          |
//	| Ready                     | its own           | none          |
//	| Ready                     | none              | WrongEndpoint |
//	| there                     | another           | WrongEndpoint |
func (j *judge) judgeEndpoints(sb *v1alpha1.BatchSandbox) {
	pods, _ := cluster.AllocatedPods(sb) // what can't be read was found before
	var ips []string
	value, ok := sb.Annotations[v1alpha1.EndpointsAnnotation]
	if ok && json.Unmarshal([]byte(value), &ips) != nil {
		j.wrongEndpoint(sb, fmt.Sprintf("batch %s has endpoints that can't be read", sb.Name))
		return
	}
	for i, pod := range pods {
		p, ip := j.pods[name{sb.Namespace, pod}], ""
		if i < len(ips) {
			ip = ips[i]
		}
		if p == nil || p.DeletionTimestamp != nil || ip == p.Status.PodIP || ip == "" && !podutil.IsReady(p) {
			continue
		}
		j.wrongEndpoint(sb, fmt.Sprintf("batch %s tells the address %q at index %d, and pod %s has %q", sb.Name, ip, i, pod, p.Status.PodIP))
	}
}

func (j *judge) wrongEndpoint(sb *v1alpha1.BatchSandbox, sentence string) {
	j.find(WrongEndpoint, sb.Namespace, "batchsandbox/"+sb.Name, sentence, remedy{
		"the controller writes it anew when it looks at the batch; if it doesn't, look whether it runs",
		[]string{"kubectl sandbox -n " + sb.Namespace + " explain " + sb.Name},
	})
}

// notes are what comes right by itself.
func (j *judge) notes() []string {
	pods, batches := 0, 0
	for _, n := range j.unlabeled {
		pods += n
		batches++
	}
	slices.Sort(j.lost)
	if pods == 0 {
		return j.lost
	}
	return append(j.lost, fmt.Sprintf("%s of %s without the labels of their batch: they come after delivery and may take minutes",
		plural(pods, "pod"), plural(batches, "batch")))
}

func plural(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "ch"):
		return fmt.Sprintf("%d %ses", n, noun)
	default:
		return fmt.Sprintf("%d %ss", n, noun)
	}
}
