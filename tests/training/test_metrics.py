import pytest

from jaxmodels.training.metrics import append_metrics, plot_loss, read_metrics, rewind_metrics


def test_append_read_rewind(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert read_metrics(log) == []
    records = [{"step": step, "loss": 1.5 / step} for step in (1, 2, 3, 4)]
    for record in records:
        append_metrics(log, record)
    with log.open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    assert read_metrics(log) == records
    rewind_metrics(log, 2)
    assert read_metrics(log) == records[:2]
    append_metrics(log, records[2])
    assert read_metrics(log) == records[:3]


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    log = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="no records"):
        plot_loss(log, tmp_path / "loss.png")
    append_metrics(log, {"step": 1, "loss": 2.0})
    append_metrics(log, {"step": 2, "loss": 1.0, "held_out_loss": 1.5})
    plot_loss(log, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("line", [b"\xff\n", b"[1]\n", b'{"loss": 1.0}\n', b"[" * 100_000 + b"\n"])
def test_a_damaged_log_is_read_up_to_the_damage(tmp_path, line):
    log = tmp_path / "metrics.jsonl"
    append_metrics(log, {"step": 1, "loss": 2.0})
    log.write_bytes(log.read_bytes() + line + b'{"step": 3}\n')
    assert read_metrics(log) == [{"step": 1, "loss": 2.0}]
