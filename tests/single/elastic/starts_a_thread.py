"""Imported by test_forks.py: such a module keeps a process from being forked."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
