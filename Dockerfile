# The images of the operator and of the workloads; docker, podman and buildah build it alike:
#   docker build --target operator  -t stockpipeline-operator .
#   docker build --target workloads -t stockpipeline-workloads .
# With `--build-arg PROFILE=unlinked` in two thirds of the time: the tests do so.

FROM docker.io/library/rust:1.95-trixie AS build
WORKDIR /src
ENV CARGO_TARGET_DIR=/target
COPY Cargo.toml Cargo.lock clippy.toml ./
COPY wire wire
COPY operator operator
COPY workloads workloads
COPY e2e e2e
ARG PROFILE=release
# Statically linked, so that the final images hold nothing but our programs. The target is named although it is the host's
# own: without it the flags would reach build scripts and procedural macros, which cannot be static. Packed, the relocations of a program take
# 13 KiB of its memory and not 1.4 MiB.
RUN target="$(rustc --version --verbose | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" cargo build --profile "$PROFILE" --locked --target "$target" \
      --package stockpipeline-operator --package workloads --bins \
 && mkdir -p /out \
 && for program in stockpipeline-operator stock-publisher stock-consumer stock-liveview; do \
      cp "/target/$target/$PROFILE/$program" /out/ || exit 1; \
    done

FROM scratch AS operator
COPY --from=build /out/stockpipeline-operator /
USER 65532:65532
ENTRYPOINT ["/stockpipeline-operator"]
CMD ["run"]

FROM scratch AS workloads
COPY --from=build /out/stock-publisher /out/stock-consumer /out/stock-liveview /
USER 65532:65532
