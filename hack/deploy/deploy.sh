#!/usr/bin/env bash
# Applies the definitions (install) or the whole controller (deploy) to the cluster of KUBECONFIG.
#
#   hack/deploy/deploy.sh install|deploy
#
# Environment: KUBECTL, and for deploy IMG, TASK_EXECUTOR_IMG, IMAGE_PULL_POLICY, CONTAINER_TOOL and OVERLAY, the kustomization that is
# deployed (default config/default). One without definitions, as config/namespaced, needs them to be installed before. The manifests
# that were applied stay in bin/deploy, with the samples in which the executor's image is TASK_EXECUTOR_IMG.
set -euo pipefail

what=${1:?usage: hack/deploy/deploy.sh install|deploy}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kubectl=${KUBECTL:-kubectl}
overlay=${OVERLAY:-config/default}

# wanted NAME EXAMPLE ends it where a variable is empty, before anything is changed.
wanted() {
	if [ -z "${!1:-}" ]; then
		echo "$1 is empty: say which one, as in make $what $1=$2" >&2
		exit 1
	fi
}
if [ "$what" = deploy ]; then
	wanted IMG registry.example.com/opensandbox/controller:v0.1.0
	wanted TASK_EXECUTOR_IMG registry.example.com/opensandbox/task-executor:v0.1.0
	wanted IMAGE_PULL_POLICY IfNotPresent
	if [ ! -f "$overlay/kustomization.yaml" ]; then
		echo "OVERLAY=$overlay has no kustomization.yaml: name a folder that has, as config/default or config/namespaced" >&2
		exit 1
	fi
fi
kustomize=$(hack/tools/tool.sh kustomize)

apply() {
	# Server-side: the definitions may outgrow the annotation that client-side apply keeps.
	"$kubectl" apply --server-side --force-conflicts --field-manager=opensandbox-deploy -f "$1"
}

# content_id prints what the image holds, so that a tag pushed again still rolls out. Nothing when that can't be known.
content_id() {
	local id=
	if command -v "${CONTAINER_TOOL:-docker}" >/dev/null; then
		id=$("${CONTAINER_TOOL:-docker}" image inspect --format '{{.Id}}' "$IMG" 2>/dev/null || true)
	fi
	if [ -z "$id" ] && [ -f bin/controller ]; then
		id=sha256:$(sha256sum bin/controller | cut -d' ' -f1)
	fi
	echo "$id"
}

definitions() {
	# API servers before 1.25 refuse the keyword of CEL rules.
	local minor
	minor=$("$kubectl" get --raw /version | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p')
	if [ -n "$minor" ] && [ "$minor" -lt 25 ]; then
		echo crd-no-cel
	else
		echo crd
	fi
}

mkdir -p bin/deploy
if [ "$what" = install ] || "$kustomize" build "$overlay" | grep '^kind: CustomResourceDefinition$' >/dev/null; then
	crds=$(definitions)
	"$kustomize" build "config/$crds" >bin/deploy/crds.yaml
	apply bin/deploy/crds.yaml
	"$kubectl" wait --for=condition=Established --timeout=60s -f bin/deploy/crds.yaml >/dev/null
fi
if [ "$what" = install ]; then
	exit
fi

name=${IMG%@*}
case ${name##*/} in *:*) name=${name%:*} ;; esac
case $IMG in
*@*) version="digest: ${IMG#*@}" ;;
"$name") version="newTag: latest" ;;
*) version="newTag: ${IMG#"$name":}" ;;
esac
cat >bin/deploy/kustomization.yaml <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- $(realpath --relative-to=bin/deploy "$overlay")
images:
- name: opensandbox/controller
  newName: $name
  $version
patches:
- target:
    kind: CustomResourceDefinition
  patch: |
    \$patch: delete
    apiVersion: apiextensions.k8s.io/v1
    kind: CustomResourceDefinition
    metadata:
      name: any
- target:
    kind: Deployment
    name: opensandbox-controller-manager
  patch: |
    - op: add
      path: /spec/template/metadata/annotations/opensandbox.io~1image-content
      value: "$(content_id)"
    - op: replace
      path: /spec/template/spec/containers/0/imagePullPolicy
      value: $IMAGE_PULL_POLICY
END
"$kustomize" build bin/deploy >bin/deploy/controller.yaml
system=$(sed -n '/^kind: Deployment$/,/^spec:$/s/^  namespace: //p' bin/deploy/controller.yaml)
apply bin/deploy/controller.yaml

mkdir -p bin/deploy/samples
for sample in config/samples/*.yaml; do
	sed "s|image: opensandbox/task-executor:dev|image: $TASK_EXECUTOR_IMG|" "$sample" >"bin/deploy/samples/${sample##*/}"
done
echo "deployed $IMG; samples that use $TASK_EXECUTOR_IMG are in bin/deploy/samples"
echo "watch it start: $kubectl -n $system rollout status deployment/opensandbox-controller-manager"
