"""TVM's RPC server with our runtime in it, on loopback: `loopback_server.py [TRACKER_PORT KEY]`.

Prints its port; ends with its standard input.
"""

import sys

from tvm import rpc


def load():
    """In the server's own process, before it forks one for each session."""
    from hetero_tvm import runtime

    runtime.load()


if __name__ == "__main__":
    tracker = ("127.0.0.1", int(sys.argv[1])) if len(sys.argv) > 1 else None
    server = rpc.Server(
        "127.0.0.1",
        9300,
        9900,
        tracker_addr=tracker,
        key=sys.argv[2] if tracker else "",
        server_init_callback=load,
        silent=True,
    )
    print(server.port, flush=True)
    sys.stdin.read()
    server.terminate()
