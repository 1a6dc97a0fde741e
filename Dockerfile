# emotion-server with both its models, in an image that needs no shell and no writable root.
#
#   docker build -t emotion-server .
#   docker run --read-only --memory 512m -p 8080:8080 emotion-server
#
# Every stage runs on the platform that the image is for (x86_64 or aarch64): nothing is cross-compiled, and
# weights are prepared by the machine that builds. Where they do not fit the processor (int4, or aarch64) the server
# prepares them itself, into MODEL_CACHE_DIR.

# Any base with glibc 2.28 or later, libstdc++ and libgcc does for the last one; it needs no shell.
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm
ARG RUNTIME_IMAGE=debian:12.11-slim

FROM ${PYTHON_IMAGE} AS onnxruntime
WORKDIR /build
COPY scripts/fetch_onnxruntime.py scripts/requirements-runtime.txt scripts/
RUN python3 scripts/fetch_onnxruntime.py --into /parts/lib && mkdir /parts/cache

FROM ${RUST_IMAGE} AS build
ARG TARGETARCH
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY kernels kernels
RUN --mount=type=cache,id=emotion-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=emotion-target-${TARGETARCH},target=/build/target \
    cargo build --release --locked --bin emotion-server \
    && cp target/release/emotion-server /emotion-server

FROM ${RUNTIME_IMAGE}
WORKDIR /opt/emotion-server
COPY LICENSE-APACHE LICENSE-MIT NOTICE ./
COPY --from=onnxruntime /parts/lib lib
COPY onnx onnx
# What this image cannot hold because the processor differs is written here: a volume, since a root that is
# read-only has no other place that is writable and not in memory.
COPY --from=onnxruntime --chown=65532:65532 /parts/cache /var/cache/emotion-server
COPY --from=build /emotion-server bin/emotion-server
# Which weights are prepared and used; those of the other precision are there to be chosen when it is run.
ARG MODEL_PRECISION=int8
ENV HOST=0.0.0.0 \
    PORT=8080 \
    MODEL_DIR=/opt/emotion-server/onnx \
    MODEL_PRECISION=${MODEL_PRECISION} \
    MODEL_CACHE_DIR=/var/cache/emotion-server \
    ORT_DISABLE_TELEMETRY=1
RUN ["/opt/emotion-server/bin/emotion-server", "prepare", "--model-cache-dir", "/opt/emotion-server/prepared"]
ENV PREPARED_DIR=/opt/emotion-server/prepared
VOLUME /var/cache/emotion-server
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=6s --start-period=10s --retries=3 \
    CMD ["/opt/emotion-server/bin/emotion-server", "health"]
ENTRYPOINT ["/opt/emotion-server/bin/emotion-server"]
CMD ["serve"]
# scripts/build_image.sh adds version and revision.
LABEL org.opencontainers.image.title="emotion-server" \
      org.opencontainers.image.description="Reads the emotions in English text, on hosts as small as 512 MB" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
