# One static binary, and nothing else: no shell, no package, no user but a number.
ARG RUST_VERSION=1.95
ARG DEBIAN_RELEASE=bookworm

# What the dependencies follow from: the manifests, with crates that have nothing in them. Changes of the
# sources do not change the result, so that the layer with the compiled dependencies lasts.
FROM rust:${RUST_VERSION}-slim-${DEBIAN_RELEASE} AS manifests
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
# Timers are a dependency of libp2p, and small.
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && for crate in crates/*; do \
        [ "$crate" = crates/futures-timer ] && continue; \
        find "$crate" -mindepth 1 -maxdepth 1 ! -name Cargo.toml -exec rm -r {} + \
        && mkdir "$crate/src" && touch "$crate/src/lib.rs"; \
    done

FROM rust:${RUST_VERSION}-slim-${DEBIAN_RELEASE} AS build
# aws-lc, the cryptography below TLS, is written in C; OpenSSL, of which one cipher is used, is
# configured by Perl.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake gcc libc6-dev make perl \
    && rm -rf /var/lib/apt/lists/*
# Which crates are in the binary, and of which version, is written into it: scanners read that.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --quiet --debug --locked --version 0.7.7 cargo-auditable
WORKDIR /src
# The profile of Cargo.toml: `release` builds faster, and the binary is larger and slower.
ARG PROFILE=dist
# The features of Cargo.toml.
ARG FEATURES=openssl
# What a backtrace would need is a quarter of the binary. Relocations are packed, from 0.9 MB to 11 KB:
# a static binary applies its own, so that nothing else has to know of it.
ENV CARGO_PROFILE_DIST_STRIP=symbols \
    CARGO_PROFILE_RELEASE_STRIP=symbols \
    RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"

COPY --from=manifests /src ./
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo auditable build --locked --profile "${PROFILE}" --features "${FEATURES}" --target "$(rustc --print host-tuple)"

COPY crates crates
COPY src src
# Reported by the metric relay_build_info.
ARG REVISION=unknown
# Cargo goes by times, and a source can be older than the layer above.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    touch src/main.rs src/lib.rs crates/*/src/lib.rs \
    && export DESCORD_RELAY_REVISION="${REVISION}" \
    && cargo auditable build --locked --profile "${PROFILE}" --features "${FEATURES}" --target "$(rustc --print host-tuple)" \
    && cp "target/$(rustc --print host-tuple)/${PROFILE}/descord-relay" /descord-relay
# An arm64 kernel has pages of up to 64 KiB: .cargo/config.toml builds the allocator for them.
RUN version="$(/descord-relay --version)" \
    && case "$(uname -m) ${version}" in aarch64*" 64 KiB" | x86_64*) ;; *) echo "${version}" >&2 && exit 1 ;; esac

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="descord-relay" \
      org.opencontainers.image.description="A libp2p Circuit Relay v2 server for fleets" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# For collectors that are reached over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /descord-relay /descord-relay
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
RUN ["/descord-relay", "--version"]
USER 65532:65532
EXPOSE 9000/tcp 9000/udp 8080/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/descord-relay", "healthcheck"]
ENTRYPOINT ["/descord-relay"]
