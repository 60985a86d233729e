"""Exact evaluation over all ranks, its scores, report and figures."""
