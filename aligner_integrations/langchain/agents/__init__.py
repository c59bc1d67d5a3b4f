"""Middleware for agents of `create_agent`, whose answers (`middleware.py`) and thoughts (`thought_middleware.py`) are corrected.

What both need: LangChain's types for agents (`types.py`), and what is seen while the real LLM or tool runs hidden
(`replay.py`). What a thought is lives in `thoughts.py`.
"""
