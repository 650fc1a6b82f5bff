# docker build -t manyone . && docker run --rm -v "$PWD:/work" manyone ls
FROM python:3.12-slim
WORKDIR /opt/manyone
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
# The pinned torch of constraints.txt is the small CPU build; for a GPU take another base image and leave the pin out.
RUN pip install --no-cache-dir --no-compile -c constraints.txt '.[policies,sql,earth,text]' \
 && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["manyone"]
CMD ["--help"]
