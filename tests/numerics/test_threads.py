"""What is done in one thread and what is shared out; and that nobody else's threads change."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from otprune.numerics import products, threads
from tests.random_tokens import random_tokens


@pytest.fixture
def two(monkeypatch):
    """Two threads on two processors, wherever this runs."""
    monkeypatch.setattr(threads, "_processors", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


KNOWN = pytest.mark.skipif(threads._set_number() is None, reason="no OpenMP of torch's is known")


@KNOWN
@pytest.mark.usefixtures("two")
def test_one_thread_meanwhile_and_as_many_as_before_after():
    with threads.single():
        assert torch.get_num_threads() == 1
        with threads.single():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), threads.single():
        raise KeyError
    assert torch.get_num_threads() == 2


@KNOWN
@pytest.mark.usefixtures("two")
def test_other_threads_have_what_they_had():
    """One that is there already, and one that starts meanwhile."""
    seen, inside, looked = [], threading.Event(), threading.Event()

    def there():
        seen.append(torch.get_num_threads())
        inside.wait()
        seen.append(torch.get_num_threads())
        looked.set()

    early = threading.Thread(target=there)
    early.start()
    with threads.single():
        inside.set()
        looked.wait()
        late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        late.start()
        late.join()
    early.join()
    assert seen == [2, 2, 2]


@KNOWN
@pytest.mark.usefixtures("two")
def test_mkl_is_left_as_it_was():
    _, local = threads._set_number()
    if local is None:
        pytest.skip("torch without MKL")
    before = local(7)
    with threads.single():
        pass
    assert local(before) == 7


@pytest.mark.usefixtures("two")
def test_all_is_done_in_order_and_by_whoever_is_free():
    both, names = threading.Barrier(2, timeout=30), set()

    def task(i):
        names.add(threading.current_thread().name)
        if i < 2 and threads._set_number() is not None:
            both.wait()  # so that either thread must come
        return i * i

    with threads.single():
        assert threads.spread(task, range(9)) == [i * i for i in range(9)]
    if threads._set_number() is not None:
        assert len(names) == 2
    assert threads.spread(task, []) == []


@pytest.mark.usefixtures("two")
def test_outside_and_within_a_task_nothing_is_shared_out():
    here = threading.current_thread

    def inner(_):
        return here()

    assert set(threads.spread(inner, range(5))) == {here()}

    def outer(_):
        own = here()
        return all(one is own for one in threads.spread(inner, range(5)))

    with threads.single():
        assert all(threads.spread(outer, range(5)))


@pytest.mark.usefixtures("two")
def test_helpers_work_under_the_callers_modes():
    def task(x):
        return torch.get_num_threads(), (x * 2).requires_grad, (x * 2).is_inference()

    x = torch.ones(3, requires_grad=True)
    with torch.inference_mode(), threads.single():
        assert {inference for *_, inference in threads.spread(task, [x] * 20)} == {True}
    with torch.no_grad(), threads.single():
        made = threads.spread(task, [x] * 20)
    assert not any(grad or inference for _, grad, inference in made)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("broken", [0, 1, 7])
def test_an_error_is_raised_and_nothing_hangs(broken):
    def task(i):
        if i >= broken:
            raise KeyError(i)

    with threads.single(), pytest.raises(KeyError):
        threads.spread(task, range(8))
    with threads.single():
        assert threads.spread(lambda i: i, range(3)) == [0, 1, 2]


@pytest.mark.usefixtures("two")
def test_nobody_waits_for_a_helper_that_has_not_begun(monkeypatch):
    class Never:
        def submit(self, work):
            from concurrent.futures import Future

            return Future()

    monkeypatch.setattr(threads, "_helpers", Never)
    with threads.single():
        assert threads.spread(lambda i: i, range(3)) == [0, 1, 2]


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 3, 900), (900, 5, 40), (7, 0, 7)])
def test_times(shape, monkeypatch):
    monkeypatch.setattr(products, "_WORTH", 1000)
    monkeypatch.setattr(products, "_LEAST", 16)
    n, r, q = shape
    a, b = random_tokens(n, max(r, 1))[:, :r].double(), random_tokens(max(r, 1), q)[:r].double()
    torch.testing.assert_close(products.times(a, b), a @ b)
    room = torch.full((n + 1, q + 1), torch.nan, dtype=torch.float64)
    products.times(a, b, out=room[1:, 1:])
    torch.testing.assert_close(room[1:, 1:], a @ b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_child_and_at_the_end():
    """After a fork, which leaves helpers behind, and when no threads are started any more."""
    code = """
import os, sys, threading, time, torch
from otprune.numerics import threads
torch.set_num_threads(2)
threads._processors = lambda: 2
def run():
    with threads.single():
        return threads.spread(lambda i: i, range(50)) == list(range(50))
assert run()
child = os.fork()
if not child:
    os._exit(0 if run() else 1)
assert os.waitpid(child, 0)[1] == 0
def late():
    threading.main_thread().join()
    print(run(), flush=True)
threading.Thread(target=late).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
