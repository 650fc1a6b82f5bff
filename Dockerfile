# In a clone:  docker build -t manyone .
# Then, in the folder of your data:
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -v manyone-cache:/cache manyone ls
# /work is your folder, where runs are written as you; /cache keeps what was fetched, for the next container.
FROM python:3.12-slim
WORKDIR /opt/manyone
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
# The versions of constraints.txt are those that the tests run with.
RUN pip install --no-cache-dir --no-compile -c constraints.txt '.[policies,sql,earth,text]' \
 && mkdir -m 1777 /cache
# Any user may write there; nothing needs a home of its own.
ENV MANYONE_CACHE=/cache HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["manyone"]
CMD ["--help"]
