# latbench with its server, on a CPU or on CUDA.
#   docker build -t latbench .                                      CPU
#   docker build -t latbench --build-arg TORCH=cu128 .              CUDA 12.8; run with --gpus all
#   docker run --rm -v "$PWD:/work" latbench quickstart
#   docker run --rm -v "$PWD:/work" -p 8000:8000 latbench serve RUN --host 0.0.0.0 --api-key KEY
FROM python:3.12-slim

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

COPY constraints.txt /src/
RUN version=$(sed -n 's/^torch==//p' /src/constraints.txt) \
    && pip install "torch==$version" --index-url "https://download.pytorch.org/whl/$TORCH"

COPY pyproject.toml README.md LICENSE /src/
COPY latbench /src/latbench
COPY methods /src/methods
COPY tasks /src/tasks
RUN sed -i '/^torch==/d' /src/constraints.txt \
    && pip install --constraint /src/constraints.txt '/src[serve,lm-eval]'

# runs/, data and the cache of models are in the folder that is mounted
WORKDIR /work
ENV HF_HOME=/work/.cache/huggingface
ENTRYPOINT ["latbench"]
CMD ["--help"]
