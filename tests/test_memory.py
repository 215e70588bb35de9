import resource

import pytest

from jaxmodels import memory


def test_what_fits_passes_and_what_does_not_is_said_with_numbers():
    free = memory.free_bytes()
    assert 10**7 < free < 10**15
    memory.check_fits("a little", 1000)
    message = r"the cache needs 3,000,000,000,000,000,000 bytes \(3,000,000\.0 TB\), but [\d,]+ bytes"
    with pytest.raises(ValueError, match=message):
        memory.check_fits("the cache", 3 * 10**18)


def test_the_least_of_all_limits_counts(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\nSwapFree: 1000 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", group)
    assert memory.free_bytes() == 6000 * 1024
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("2500000\n")
    (group / "memory.stat").write_text("anon 2000000\ninactive_file 400000\n")
    assert memory.free_bytes() == 900_000
    (group / "memory.max").write_text("max\n")
    assert memory.free_bytes() == 6000 * 1024
    (tmp_path / "status").write_text("VmPeak: 2000 kB\nVmSize:\t1000 kB\n")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5_000_000, resource.RLIM_INFINITY))
    assert memory.free_bytes() == 5_000_000 - 1000 * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (tmp_path / "meminfo").unlink()
    assert memory.free_bytes() is None
    memory.check_fits("anything", 10**30)  # nothing is known, so nothing is refused
