"""Folders of containers, and their locks, against who removes them meanwhile."""

import os
import shutil
import threading

import pytest

from sandbox import state
from sandbox.errors import NotFound


@pytest.fixture
def directory(tmp_path):
    return state.make_directory(tmp_path, "c1")


def test_who_comes_while_the_folder_is_removed_does_not_get_in(directory, monkeypatch):
    """Two destroyed one container at once: the second made the lock anew, and found an empty record."""
    monkeypatch.setattr(state, "LOCK_PATIENCE_S", 60)
    entered = []
    open(f"{directory}/state.json", "w").close()

    def come():
        try:
            with state.locked(directory):
                entered.append(True)
        except NotFound:
            entered.append(False)

    with state.locked(directory):
        os.unlink(f"{directory}/lock")
        thread = threading.Thread(target=come)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        shutil.rmtree(directory)
    thread.join(60)

    assert entered == [False]
    assert not os.path.exists(directory)


def test_who_waited_until_the_folder_was_removed_does_not_get_in(directory):
    failures = []

    def come():
        try:
            with state.locked(directory):
                failures.append("got in")
        except NotFound:
            pass

    with state.locked(directory):
        thread = threading.Thread(target=come)
        thread.start()
        thread.join(0.1)
        state.remove_directory(directory)
    thread.join(60)

    assert failures == []


def test_folder_whose_creator_died_at_once_can_be_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "LOCK_PATIENCE_S", 0.02)
    (tmp_path / "c1").mkdir()
    with state.locked(tmp_path / "c1"):
        assert (tmp_path / "c1" / "lock").exists()


def test_no_folder(tmp_path):
    with pytest.raises(NotFound), state.locked(tmp_path / "c1"):
        pass


def test_a_folder_is_made_while_others_remove_the_one_around_it(tmp_path):
    """As the last container of a namespace goes when the next one comes."""
    root = tmp_path / "root"
    over = threading.Event()

    def remove():
        while not over.is_set():
            try:
                root.rmdir()
            except OSError:
                pass

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for number in range(500):
            state.remove_directory(state.make_directory(root, f"c{number}"))
    finally:
        over.set()
        thread.join()
