#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Takes many sandboxes of a pool in one batch, runs a different task in each, prints the results by index and gives the
sandboxes back. Needs the official client alone: pip install kubernetes, or Debian's python3-kubernetes.

Task i is the script with i as its argument $1. The exit code is 1 if any task failed, or nothing could be run.
"""

import argparse
import json
import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List

import urllib3
from kubernetes import client, config, watch

BATCHES = {"group": "sandbox.opensandbox.io", "version": "v1alpha1", "plural": "batchsandboxes"}
ALLOC_STATUS = "sandbox.opensandbox.io/alloc-status"
DEFAULT_SCRIPT = 'echo "$1 squared is $(($1 * $1))"'

Batch = Dict[str, Any]


class FanoutError(Exception):
    """What keeps the tasks from being run, in words for people."""


@dataclass
class Result:
    """What became of the task of one index."""

    what: str = "Unknown"  # Succeeded, or the reason of the failure
    output: str = ""  # its last line


def wanted(pool: str, count: int, script: str) -> Batch:
    """The batch: one task for all, and a patch for each index that makes it a different one."""
    return {
        "apiVersion": f"{BATCHES['group']}/{BATCHES['version']}",
        "kind": "BatchSandbox",
        "metadata": {"generateName": "fanout-"},
        "spec": {
            "replicas": count,
            "poolRef": pool,
            "taskTemplate": {"spec": {"process": {"command": ["sh", "-c", script, "task"]}}},
            "shardTaskPatches": [{"spec": {"process": {"args": [str(i)]}}} for i in range(count)],
        },
    }


def wait(api: client.CustomObjectsApi, namespace: str, name: str, timeout: float) -> Batch:
    """Watches the batch until all its tasks have ended. A watch that ends is begun anew, with the state as it is."""
    deadline = time.monotonic() + timeout
    batch: Batch = {}
    while (left := deadline - time.monotonic()) > 0:
        # Without a resourceVersion a watch begins with what there is, or with nothing where the batch is gone.
        batch = api.get_namespaced_custom_object(**BATCHES, namespace=namespace, name=name)
        events = watch.Watch().stream(
            api.list_namespaced_custom_object, **BATCHES, namespace=namespace,
            field_selector=f"metadata.name={name}", timeout_seconds=max(1, int(left)),
        )
        try:
            for event in events:
                batch = event["object"]
                if event["type"] == "DELETED":
                    raise FanoutError(f"somebody deleted batch {name}")
                status = batch.get("status", {})
                if status.get("phase") == "Failed":
                    raise FanoutError(f"batch {name} can't be run: {complaint(batch)}")
                if any(c["type"] == "TasksCompleted" and c["status"] == "True" for c in status.get("conditions", [])):
                    return batch
        except client.ApiException as error:
            if error.status != 410:  # the watch is too old
                raise
        except urllib3.exceptions.ProtocolError:
            pass  # the connection broke
    raise FanoutError(f"not all tasks of batch {name} have ended in {timeout:.0f} s: {complaint(batch)}")


def complaint(batch: Batch) -> str:
    """What keeps a batch from being ready or completed, in the words of its conditions."""
    for condition in batch.get("status", {}).get("conditions", []):
        if condition["status"] == "False":
            return f"{condition['reason']}: {condition['message']}"
    return "it has no sandboxes yet"


def expand(indexes: str) -> Iterator[int]:
    """Yields compressed indexes: 0-3,7 are 0, 1, 2, 3 and 7."""
    for part in filter(None, indexes.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def results_of(batch: Batch, count: int) -> List[Result]:
    """Reads the status: which indexes succeeded, why the others failed, and what the first of these wrote last."""
    status = batch["status"]
    results = [Result() for _ in range(count)]
    for i in expand(status.get("completedIndexes", "")):
        results[i].what = "Succeeded"
    for failure in status.get("failedReasons", []):
        for i in expand(failure["indexes"]):
            results[i].what = failure["reason"]
    for failed in status.get("failedTasks", []):
        results[failed["index"]].output = last_line(failed.get("output", ""))
    return results


def read_output(namespace: str, batch: Batch, results: List[Result]) -> None:
    """Reads the last line that each task wrote from the log of its pod. The batch names the pod of each index."""
    core = client.CoreV1Api()
    for i, pod in enumerate(json.loads(batch["metadata"]["annotations"][ALLOC_STATUS])["pods"]):
        if not pod:
            continue
        log = core.read_namespaced_pod_log(pod, namespace, container="task-executor")
        mine = re.compile(rf"task={batch['metadata']['uid']}-{i}-\d+ stream=std(?:out|err) \| (.*)")
        written = [line.group(1) for line in map(mine.match, log.splitlines()) if line]
        if written:
            results[i].output = written[-1]


def give_back(api: client.CustomObjectsApi, namespace: str, name: str) -> None:
    """Deletes the batch: its tasks are stopped, and its pods return to the pool."""
    try:
        api.delete_namespaced_custom_object(**BATCHES, namespace=namespace, name=name)
    except client.ApiException as error:
        if error.status != 404:
            raise


def run(args: argparse.Namespace) -> None:
    config.load_kube_config(config_file=args.kubeconfig)
    namespace = args.namespace or config.list_kube_config_contexts(args.kubeconfig)[1]["context"].get("namespace", "default")
    api = client.CustomObjectsApi()
    body = wanted(args.pool, args.count, args.script)
    name = api.create_namespaced_custom_object(**BATCHES, namespace=namespace, body=body)["metadata"]["name"]
    try:
        batch = wait(api, namespace, name, args.timeout)
        results = results_of(batch, args.count)
        if not args.quiet:
            read_output(namespace, batch, results)
    finally:
        give_back(api, namespace, name)
    print(f"{'INDEX':<5}  {'RESULT':<14}  OUTPUT")
    for i, result in enumerate(results):
        print(f"{i:<5}  {result.what:<14}  {result.output}")
    if failed := sum(result.what != "Succeeded" for result in results):
        raise FanoutError(f"{failed} of {args.count} tasks failed")


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs a different task in each of many sandboxes.")
    parser.add_argument("pool", help="the pool that the sandboxes come from")
    parser.add_argument("script", nargs="?", default=DEFAULT_SCRIPT, help="the shell script of each task; $1 is its index")
    parser.add_argument("--kubeconfig", help="unset means as kubectl does")
    parser.add_argument("--namespace", "-n", help="the pool's; unset means that of the kubeconfig's context")
    parser.add_argument("--count", "-c", type=int, default=100, help="the number of sandboxes")
    parser.add_argument("--timeout", "-t", type=float, default=600, help="how long the tasks may take, in seconds")
    parser.add_argument("--quiet", "-q", action="store_true", help="don't read what tasks wrote from the logs of their pods")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves by the way that gives the sandboxes back
    try:
        run(parser.parse_args())
    except KeyboardInterrupt:
        sys.exit(130)
    except (FanoutError, client.ApiException, config.ConfigException) as error:
        sys.exit(f"fanout.py: {error}")


if __name__ == "__main__":
    main()
