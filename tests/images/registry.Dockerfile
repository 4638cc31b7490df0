# The registry program of the embedded cluster: CNCF distribution built from its Go module, laid out as `registry:3` is.
FROM scratch
COPY registry /bin/registry
ENV PATH=/bin OTEL_TRACES_EXPORTER=none
VOLUME /var/lib/registry
EXPOSE 5000
ENTRYPOINT ["registry"]
CMD ["serve", "/etc/distribution/config.yml"]
