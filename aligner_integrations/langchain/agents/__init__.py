"""Middleware for agents of `create_agent`: for answers (`middleware.py`) and for thoughts (`thought_middleware.py`).

What both need: LangChain's types for agents (`types.py`), and what is seen while the real LLM or tool runs hidden
(`replay.py`). What a thought is lives in `thoughts.py`.
"""
