# An image for Beam's Python workers with this package: uv build --wheel && docker build --tag lse-stream-worker .
# The version of Beam is that of the environment that starts jobs.
FROM apache/beam_python3.12_sdk:2.77.0
COPY dist/*.whl /tmp/wheels/
RUN pip install --no-cache-dir "$(ls /tmp/wheels/*.whl)[kafka]" && rm -r /tmp/wheels
