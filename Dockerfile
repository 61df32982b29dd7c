# omniloom with what building and training need. FFmpeg comes inside PyAV; Open3D wants libGL and libX11 from the system.
FROM python:3.11-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libgomp1 libx11-6 libusb-1.0-0 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/omniloom
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[build,train,dali]'
WORKDIR /corpora
CMD ["omniloom", "--help"]
