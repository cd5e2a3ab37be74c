"""What does the memory need from the outside world?

Each port is a Protocol; adapters are named by technology and live in `memory/adapters/`. Ports marked "sync" do CPU
or disk work and are called in worker threads; the others are coroutines and never block the event loop.
"""
