"""The server: answers `Generate`, takes feedback, and follows the live checkpoint.

Rooms: `service.py` and what stands around it are the edge (gRPC on asyncio); `engine/` is the step
loop, in a thread of its own. They meet in `engine/messages.py` and nowhere else.
"""
