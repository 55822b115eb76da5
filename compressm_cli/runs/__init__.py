"""Run folders: what lies in them, who may write."""
