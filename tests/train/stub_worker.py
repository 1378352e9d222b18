"""A worker that trains nothing: it ends as the file `end` in its output folder says, or never."""

import json
import os
import signal
import sys
import time

from polaris.train.job import Job, write_status

job = Job.parse()
end = json.loads((job.output / "end").read_text())
if end == "never":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (job.output / "hangs").write_text(str(os.getpid()))
    while True:
        time.sleep(60)
print(end["says"], file=sys.stderr)
if "code" in end:
    write_status(job.output, end["code"], end["says"])
sys.stderr.flush()
os._exit(end["exit"])
