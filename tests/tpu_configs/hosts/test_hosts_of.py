import pytest

from jaxmodels.tpu_configs.hosts import Hosts, connected, hosts_of

FOUR = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_a_process_learns_from_its_environment_who_it_is():
    assert hosts_of({}) is None
    assert hosts_of({"JAX_COORDINATOR_ADDRESS": ""}) is None
    assert hosts_of(FOUR) == Hosts(coordinator="10.0.0.1:1234", count=4, number=3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"JAX_NUM_PROCESSES": ""}, "JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID are set, but not JAX_NUM_"),
        ({"JAX_PROCESS_ID": "", "JAX_NUM_PROCESSES": ""}, "is set, but not JAX_NUM_PROCESSES and JAX_PROC"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4: the number of this process, of 4 counted from 0, must"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID must be a whole number, got '-1'"),
        ({"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES must be a whole number, got 'four'"),
        ({"JAX_NUM_PROCESSES": "0"}, "the number of processes must be a whole number >= 1"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "the address of process 0 with a free port .* '10.0.0.1'"),
        ({"JAX_COORDINATOR_ADDRESS": "host:0"}, "a free port of its host, .* got 'host:0'"),
        ({"JAX_COORDINATOR_ADDRESS": ":80"}, "a free port of its host, .* got ':80'"),
    ],
)
def test_an_environment_that_does_not_say_it_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        hosts_of(FOUR | changes)


def test_a_process_alone_is_not_connected_to_any(monkeypatch):
    for name in (*FOUR, "JAXMODELS_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    with connected():
        pass
    monkeypatch.setenv("JAXMODELS_HOSTS", "by magic")
    with (
        pytest.raises(ValueError, match="must be 'auto' or not set, got 'by magic'"),
        connected(),
    ):
        pass
