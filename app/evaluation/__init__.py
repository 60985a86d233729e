"""Exact evaluation over all ranks: scores, report and figures."""
