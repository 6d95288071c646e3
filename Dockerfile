# The image is one static binary and nothing else: no shell, no libraries, no files. CA certificates come from the service account.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN scripts/build-static && cp target/static/waypost /waypost

# `scripts/image` builds this stage alone from a binary that was built outside: its build context is the binary's folder.
FROM scratch AS image
COPY --from=build /waypost /waypost
ENTRYPOINT ["/waypost"]
CMD ["run"]
