# The checks by name. Each recipe runs the step of `.ci/run` or the part of `.ci/long` that has its name:
# what a step does is written there.

# List the recipes.
default:
    @just --list

# Run all steps, as CI does.
ci:
    .ci/run

# Install the programs that the other steps need.
tools:
    .ci/run tools

# Check the format of the Rust code.
format:
    .ci/run format

# Run clippy with all features.
lints:
    .ci/run lints

# Compile without any feature.
features:
    .ci/run features

# Build the API documentation without warnings.
documentation:
    .ci/run documentation

# Check the licences, sources and versions of the dependencies.
dependencies:
    .ci/run dependencies

# Check the shell scripts, the justfile and the GitHub workflows.
scripts:
    .ci/run scripts

# Run the arm64 allocator with pages of 4, 16 and 64 KiB.
allocator:
    .ci/run allocator

# Run all tests.
tests:
    .ci/run tests

# Test Noise with OpenSSL, as in the image.
noise-openssl:
    .ci/run noise-openssl

# Run parts of the long tests; without a name, list them.
long *names:
    .ci/long {{ names }}
