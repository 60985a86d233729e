"""What the doctor is told in its tests: how a command ended, and the facts of a host."""

from app.doctor.probe import Finished

MIB, GIB = 2**20, 2**30
DONE = Finished(None, 0, "", "")


def failed(code=1, out="", err=""):
    return Finished(f"exit code {code}", code, out, err)


def statuses(results):
    return [result.status for result in results]


def facts_of(**changed):
    facts = {
        "python": "3.11.7",
        "packages": {"tensorflow": "2.20.0", "rich": "15.0.0"},
        "horovod_built_for": "2.20.0",
        "hostname": "gpu1",
        "addresses": ["10.0.0.1"],
        "interfaces": {"lo": "127.0.0.1", "eth0": "10.0.0.1"},
        "cores": 8,
        "gpus": 0,
        "directory": True,
        "disk_free_bytes": 50 * GIB,
        "time_s": 0.0,
    }
    return {**facts, **changed}
