import os
import subprocess
import sys

import pytest

COUNT_THREADS = """
import api.cli, os
import numpy as np
square = np.ones((600, 600), np.float32)
square @ square
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_matrix_products_of_numpy_have_no_helpers_that_spin():
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    found = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert found.stdout.strip() == "1"
