"""Scoring and refinement spread over processes of this machine, or over a Ray cluster; the same bits as without."""
