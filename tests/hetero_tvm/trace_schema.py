"""What Chrome and Perfetto ask of a trace."""


def check_schema(document):
    """What the Trace Event Format asks of every event that we write."""
    assert document.keys() >= {"traceEvents", "displayTimeUnit"}
    threads = {}
    for event in document["traceEvents"]:
        assert event["ph"] in {"X", "M", "s", "f"}
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert isinstance(event["name"], str) and event["name"]
        if event["ph"] == "M":
            if event["name"] == "thread_name":
                threads[event["pid"], event["tid"]] = event["args"]["name"]
        else:
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in threads
    check_nesting(event for event in document["traceEvents"] if event["ph"] == "X")
    flows = {}
    for event in document["traceEvents"]:
        if event["ph"] in "sf":
            flows.setdefault(event["id"], []).append(event)
    for ends in flows.values():
        assert [event["ph"] for event in ends] == ["s", "f"]
        assert ends[0]["ts"] <= ends[1]["ts"]
    return threads


def check_nesting(spans):
    """On one thread spans are within one another or apart, else Perfetto drops the ends of some.

    Half a nanosecond is what a time in microseconds is rounded by.
    """
    open_ends = {}
    for span in sorted(spans, key=lambda span: (span["ts"], -span["dur"])):
        ends = open_ends.setdefault((span["pid"], span["tid"]), [])
        while ends and ends[-1] <= span["ts"] + 5e-4:
            ends.pop()
        end = span["ts"] + span["dur"]
        assert not ends or end <= ends[-1] + 5e-4, f"{span['name']} ends after what it is in"
        ends.append(end)
