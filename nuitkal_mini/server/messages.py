"""The server's sentences in Chinese, by their English template.

A test finds every template that can reach a person through the server and asserts that it stands
here.
"""

from __future__ import annotations

import re
from typing import Any, Dict

from ..problem import Problem

ENGLISH, CHINESE = "en", "zh"
UPLOADED = "version uploaded"
ACTIVATED = "version {version} is now active"

_WEIGHT = re.compile(r"[01](?:\.[0-9]{0,3})?")  # RFC 9110, 12.4.2


def language_of(environ: Dict[str, Any]) -> str:
    """English when Accept-Language prefers it to Chinese, else Chinese."""
    best = {ENGLISH: 0.0, CHINESE: 0.0}
    for choice in environ.get("HTTP_ACCEPT_LANGUAGE", "").lower().split(","):
        tag, _, parameter = choice.partition(";")
        language = tag.strip().partition("-")[0]
        name, _, weight = parameter.partition("=")
        weight = weight.strip() if name.strip() == "q" else "" if parameter.strip() else "1"
        if language in best and _WEIGHT.fullmatch(weight):
            # listed earlier wins between equals: each further one counts a hair less
            value = float(weight) - 1e-6 * sum(value > 0 for value in best.values())
            best[language] = max(best[language], value)
    return ENGLISH if best[ENGLISH] > best[CHINESE] else CHINESE


def say(template: str, language: str, **values: object) -> str:
    """The sentence of a template; without a Chinese text for it the English one."""
    return (TEXTS.get(template, template) if language == CHINESE else template).format(**values)


def say_problem(problem: Problem, language: str) -> str:
    """A problem's sentence."""
    return say(problem.template, language, **problem.values)


TEXTS = {
    UPLOADED: "版本上传成功",
    ACTIVATED: "版本 {version} 已设为激活版本",
    # requests
    "there is nothing at this address": "此地址不存在",
    "the method {method} is not possible here; possible: {allowed}": (
        "此处不支持 {method} 方法；可用方法：{allowed}"
    ),
    "the request's Host header is not the name of a host": "请求的 Host 头不是有效的主机名",
    "the request must say its size in Content-Length": "请求必须用 Content-Length 说明大小",
    "the request has {size} bytes; at most {limit} are allowed": (
        "请求有 {size} 字节，最多允许 {limit} 字节"
    ),
    "only HTTP/1.1 is spoken here": "此服务器只支持 HTTP/1.1",
    "the request has a Content-Length and a Transfer-Encoding": (
        "请求同时带有 Content-Length 和 Transfer-Encoding"
    ),
    "the request's Transfer-Encoding does not end with chunked": (
        "请求的 Transfer-Encoding 没有以 chunked 结尾"
    ),
    "the only Transfer-Encoding that is read is chunked": "只支持 chunked 这一种 Transfer-Encoding",
    "the request has a chunk that cannot be read": "请求中有无法解析的分块",
    "the request came too slowly": "请求发送得太慢",
    "the request was cut off": "请求中途断开",
    "the request has a header that cannot be read": "请求中有无法解析的头",
    "the request has more than one {name} header": "请求中有多个 {name} 头",
    "the request has more than {limit} headers": "请求头超过 {limit} 个",
    "the request has no Host header": "请求缺少 Host 头",
    "the request line cannot be read": "无法解析请求行",
    "the request line is longer than {limit} bytes": "请求行超过 {limit} 字节",
    "the request's Content-Length is not a number": "请求的 Content-Length 不是数字",
    "the request's headers are longer than {limit} bytes": "请求头超过 {limit} 字节",
    "the request's target is not a path": "请求的目标不是路径",
    "the file is not the one that the request names": "文件不是请求所指的那一个",
    "the file has only {size} bytes": "文件只有 {size} 字节",
    "this needs a valid token: Authorization: Bearer <token>": (
        "需要有效的令牌：Authorization: Bearer <令牌>"
    ),
    "too many wrong attempts; try again in {seconds} seconds": (
        "错误尝试过多，请在 {seconds} 秒后重试"
    ),
    "too many logins at the same time; try again in {seconds} seconds": (
        "同时登录的请求过多，请在 {seconds} 秒后重试"
    ),
    "the server failed; its log says why": "服务器出错，原因见服务器日志",
    "the server's database does not answer; try again later": "服务器的数据库没有响应，请稍后重试",
    "the server's disk is full; nothing was stored": "服务器磁盘已满，没有保存任何内容",
    "the data folder would pass its limit (--max-data); delete releases, or raise it": (
        "数据目录将超过上限（--max-data）；请删除一些版本，或调高上限"
    ),
    # the admin site
    "this form was sent from another site, or a proxy changed its Host header; let it pass that "
    "on, or set --public-url": (
        "此表单来自其他网站，或者代理更改了 Host 头；请让代理原样转发，或设置 --public-url"
    ),
    "this form is of an earlier login; load the page again": "此表单属于之前的登录，请重新加载页面",
    "there is no action {action!r} here": "此处没有操作 {action!r}",
    # fields
    "the field {name!r} is missing": "缺少字段 {name!r}",
    "there is no field {name!r} here": "此处没有字段 {name!r}",
    "the file {name!r} is larger than {limit} bytes": "文件 {name!r} 超过 {limit} 字节",
    "the field {name!r} is longer than {limit} bytes": "字段 {name!r} 超过 {limit} 字节",
    "the field {name!r} is not UTF-8": "字段 {name!r} 不是 UTF-8",
    "{name!r} must be a number of at most nine digits": "{name!r} 必须是不超过九位的数字",
    "{name!r} must be sent as a file": "{name!r} 必须作为文件发送",
    "the manifest names the main program; leave {name!r} empty": (
        "主程序由清单指定；请将 {name!r} 留空"
    ),
    "{name!r} must be text": "{name!r} 必须是文本",
    "{name!r} must be true, 1, yes, on or false, 0, no, off": (
        "{name!r} 必须是 true、1、yes、on 或 false、0、no、off"
    ),
    "'hashes' must be a list of at most 200,000 SHA-256 in lower-case hex": (
        "'hashes' 必须是不超过 200,000 个小写十六进制 SHA-256 的列表"
    ),
    "{channel!r} cannot be a channel: at most 64 small letters, digits, dots, dashes, "
    "underscores; no dot at the end, no name of a Windows device such as con": (
        "{channel!r} 不能作为通道名：最多 64 个小写字母、数字、点、连字符和下划线；"
        "不能以点结尾，也不能是 con 之类的 Windows 设备名"
    ),
    "a form must be sent as multipart/form-data": "表单必须以 multipart/form-data 发送",
    "the form broke off after {received} of {length} bytes": (
        "表单在 {length} 字节中的第 {received} 字节处中断"
    ),
    "the form does not begin with its boundary": "表单没有以其分隔符开头",
    "the form has a boundary that does not end its line": "表单的分隔符之后还有内容",
    "the form has a file name that cannot be read": "表单中有无法解析的文件名",
    "the form has a header that cannot be read: {header!r}": "表单中有无法解析的头：{header!r}",
    "the form has a part whose header is longer than {limit} bytes": (
        "表单中有一部分的头超过 {limit} 字节"
    ),
    "the form has a part without a name": "表单中有一部分没有名称",
    "the form has more than one field {name!r}": "表单中字段 {name!r} 出现多次",
    "the form has more than {limit} fields": "表单字段超过 {limit} 个",
    "the form has no end: its last boundary is missing": "表单不完整：缺少最后的分隔符",
    "the form has no usable boundary in its Content-Type": "表单的 Content-Type 中没有可用的分隔符",
    "the form is not URL-encoded UTF-8 of at most {limit} fields": (
        "表单不是最多 {limit} 个字段的 URL 编码 UTF-8"
    ),
    "this is not JSON in UTF-8": "这不是 UTF-8 编码的 JSON",
    "this is not a JSON object": "这不是 JSON 对象",
    "this JSON has the key {key!r} twice": "此 JSON 中的键 {key!r} 出现了两次",
    "this JSON has too many values": "此 JSON 的值太多",
    # releases
    "channel {channel} has no active version": "通道 {channel} 没有激活的版本",
    "there is no version {version} in channel {channel}": "通道 {channel} 中没有版本 {version}",
    "version {version} exists already; publish a new version": (
        "版本 {version} 已存在，请发布新版本"
    ),
    "version {version} exists already; activate it, or publish a new one": (
        "版本 {version} 已存在，请激活它或发布新版本"
    ),
    "version {version} is active; activate another one first": (
        "版本 {version} 正处于激活状态，请先激活其他版本"
    ),
    "version {version} was deleted and can only come back with the same package, byte for byte; "
    "publish the files as a new version": (
        "版本 {version} 已被删除，只能以逐字节相同的更新包恢复；请把这些文件作为新版本发布"
    ),
    "the files of version {version} are gone or damaged on the server; restore them from a "
    "backup, or delete this version and upload it again": (
        "服务器上版本 {version} 的文件已丢失或损坏；请从备份恢复，或删除此版本后重新上传"
    ),
    "channel {channel} belongs to the app {known!r}, the manifest is of {app!r}": (
        "通道 {channel} 属于应用 {known!r}，而清单属于 {app!r}"
    ),
    "the manifest is of version {other}, the upload of {version}": (
        "清单的版本是 {other}，上传的版本是 {version}"
    ),
    "the ZIP file holds no files": "ZIP 文件中没有文件",
    "the ZIP file holds only a part of its release; send its manifest too": (
        "ZIP 文件只包含版本的一部分，请同时发送其清单"
    ),
    "the server's copy of some files is damaged or gone; upload again and it will ask for them": (
        "服务器上某些文件的副本已损坏或丢失；请重新上传，服务器会要求发送这些文件"
    ),
    "{count} files have contents that are neither in the ZIP file nor on the server: {paths}": (
        "{count} 个文件的内容既不在 ZIP 文件中，也不在服务器上：{paths}"
    ),
    "{path!r} in the ZIP file is not what the manifest says": "ZIP 文件中的 {path!r} 与清单不符",
    "{path!r} is in the ZIP file and not in the manifest": "{path!r} 在 ZIP 文件中，但不在清单中",
    "{version!r} is not a version such as 1.2.3, v1.2 or 1.2.3-rc.1": (
        "{version!r} 不是有效的版本号，例如 1.2.3、v1.2 或 1.2.3-rc.1"
    ),
    # signatures
    "this server takes signed releases only; send the manifest and its signature": (
        "此服务器只接受已签名的版本，请发送清单及其签名"
    ),
    "the signature is for {other} {other_version}, the manifest for {app} {version}": (
        "签名针对 {other} {other_version}，而清单属于 {app} {version}"
    ),
    "signed with the key {key}, which is not among the trusted keys ({trusted})": (
        "签名所用的密钥 {key} 不在受信任的密钥之中（{trusted}）"
    ),
    "the signature by the key {key} is wrong: these are not the bytes that were signed": (
        "密钥 {key} 的签名有误：这不是被签名的内容"
    ),
    "the signature by the key {key} is right, the one of its trusted comment is wrong": (
        "密钥 {key} 的签名正确，但其可信注释的签名有误"
    ),
    "this is not a minisign signature: two comments, each with a line of base64 below": (
        "这不是 minisign 签名：应为两行注释，每行注释下有一行 base64"
    ),
    "the trusted comment is longer than 8,192 characters or has control characters in it": (
        "可信注释超过 8,192 个字符，或含有控制字符"
    ),
    "the trusted comment {comment!r} does not hold timestamp:N, app:A and version:V, each once, "
    "between tabs": (
        "可信注释 {comment!r} 中没有各出现一次、以制表符分隔的 timestamp:N、app:A 和 version:V"
    ),
    # manifests
    "the app's name must be at most 64 printable characters, not {app!r}": (
        "应用名必须是最多 64 个可打印字符，而不是 {app!r}"
    ),
    "the manifest is larger than 64 MiB": "清单超过 64 MiB",
    "the manifest lacks a version or a list of at most 200,000 files": (
        "清单缺少版本号，或缺少不超过 200,000 个文件的列表"
    ),
    "the manifest requires the Python {comparison!r}; write it as >=3.9": (
        "清单要求的 Python 版本写作 {comparison!r}；请写成 >=3.9 的形式"
    ),
    "the manifest requires the platform {platform!r}; write it as linux-x86_64 or linux-*": (
        "清单要求的平台写作 {platform!r}；请写成 linux-x86_64 或 linux-* 的形式"
    ),
    "the manifest revokes {key!r}, which is no key id of 16 hex digits": (
        "清单撤销了 {key!r}，它不是 16 位十六进制的密钥编号"
    ),
    "the manifest's entry {path!r} lacks a field or has a wrong one": (
        "清单中 {path!r} 的条目缺少字段或字段有误"
    ),
    "the manifest's files are not sorted by path, each once": (
        "清单中的文件没有按路径排序，或有重复"
    ),
    "the manifest's format is {format!r}, this program reads 1; a newer one is needed": (
        "清单的格式是 {format!r}，本程序只能读取格式 1；需要更新的程序"
    ),
    "the manifest's minimum {minimum} is above its own version": (
        "清单的最低版本 {minimum} 高于其自身版本"
    ),
    "the manifest's minimum, requires, revoked or keys is not what it should be": (
        "清单的 minimum、requires、revoked 或 keys 有误"
    ),
    "the manifest's main program {main!r} is not one of its files": (
        "清单的主程序 {main!r} 不在其文件之中"
    ),
    "the manifest names the key {key!r}, which is no public key of 56 characters, "
    "or there twice": "清单中的密钥 {key!r} 不是 56 个字符的公钥，或出现了两次",
    "the release has more than 20,000 links": "版本中的链接超过 20,000 个",
    "the release has more than 200,000 folders": "版本中的文件夹超过 200,000 个",
    # paths
    "the link {path!r} has an empty, absolute or too long target": (
        "链接 {path!r} 的目标为空、是绝对路径或过长"
    ),
    "the link {path!r} leads to the release's own folder": "链接 {path!r} 指向版本自身的文件夹",
    "the link {path!r} leads to {other!r}, which is not in the release; "
    "add that, or leave the link out": (
        "链接 {path!r} 指向 {other!r}，而版本中没有它；请加入它，或去掉该链接"
    ),
    "the link {path!r} leads out of the release": "链接 {path!r} 指向版本之外",
    "the link {path!r} leads through too many links": "链接 {path!r} 经过的链接过多",
    "the link {path!r} spells {other!r} in another way": "链接 {path!r} 以不同的写法指向 {other!r}",
    "{path!r} and {other!r} are one file on Windows and macOS": (
        "{path!r} 和 {other!r} 在 Windows 和 macOS 上是同一个文件"
    ),
    "{path!r} and {other!r} are one folder on Windows and macOS": (
        "{path!r} 和 {other!r} 在 Windows 和 macOS 上是同一个文件夹"
    ),
    "{path!r} belongs to the updater; leave it out of the release": (
        "{path!r} 属于更新程序，请不要放入版本"
    ),
    '{path!r} has a character that Windows forbids in names (< > : " | ? * \\, or a dot or space '
    "at the end)": (
        '{path!r} 含有 Windows 文件名不允许的字符（< > : " | ? * \\，或以点、空格结尾）'
    ),
    "{path!r} has a component longer than 255 bytes": "{path!r} 中有一段超过 255 字节",
    "{path!r} has a control or invisible character": "{path!r} 含有控制字符或不可见字符",
    "{path!r} has an empty, '.' or '..' component and could leave its folder": (
        "{path!r} 含有空的、'.' 或 '..' 路径段，可能离开其文件夹"
    ),
    "{path!r} is a device or a short 8.3 name on Windows": (
        "{path!r} 在 Windows 上是设备名或 8.3 短文件名"
    ),
    "{path!r} is both a file and a folder": "{path!r} 既是文件又是文件夹",
    "{path!r} is empty, absolute, or longer than 1,024 bytes": (
        "{path!r} 为空、是绝对路径或超过 1,024 字节"
    ),
    "{path!r} is longer than 1,024 bytes": "{path!r} 超过 1,024 字节",
    "{path!r} is not UTF-8; pack the files with UTF-8 names": (
        "{path!r} 不是 UTF-8；请用 UTF-8 文件名打包"
    ),
    "{path!r} is not in Unicode's normal form C": "{path!r} 不是 Unicode 规范形式 C",
    "{path!r} is not valid Unicode; rename it": "{path!r} 不是有效的 Unicode，请重命名",
    # ZIP files
    "something stands before the first entry of the ZIP file": "ZIP 文件的第一个条目之前有多余内容",
    "the ZIP file claims {size} bytes in {compressed}: a bomb, or false sizes": (
        "ZIP 文件声称 {compressed} 字节中有 {size} 字节：是压缩炸弹，或大小有误"
    ),
    "the ZIP file does not end where its end record says": "ZIP 文件没有在其结尾记录所说的位置结束",
    "the ZIP file ends in the middle of {path!r}": "ZIP 文件在 {path!r} 中间结束",
    "the ZIP file was cut short while it was read": "ZIP 文件在读取时被截断",
    "the ZIP file's ZIP64 end record is not where it should be": (
        "ZIP 文件的 ZIP64 结尾记录不在应在的位置"
    ),
    "the ZIP file's central directory has more in it than it says": (
        "ZIP 文件的中央目录内容多于其声明"
    ),
    "the ZIP file's central directory is damaged or has fewer entries than it says": (
        "ZIP 文件的中央目录已损坏，或条目少于其声明"
    ),
    "the ZIP file's end record has a false count, size or offset, or more than 200,000 entries "
    "in 64 MiB": ("ZIP 文件结尾记录的数量、大小或偏移有误，或在 64 MiB 中超过 200,000 个条目"),
    "the ZIP file's two end records contradict each other": "ZIP 文件的两个结尾记录互相矛盾",
    "the contents of {path!r} are damaged": "{path!r} 的内容已损坏",
    "the contents of {path!r} do not have the size and checksum that the ZIP file says": (
        "{path!r} 的内容与 ZIP 文件所说的大小和校验和不符"
    ),
    "the folder {path!r} has contents": "文件夹 {path!r} 带有内容",
    "the link {path!r} has a target of more than 4,096 bytes": (
        "链接 {path!r} 的目标超过 4,096 字节"
    ),
    "the link {path!r} has a target that is not UTF-8": "链接 {path!r} 的目标不是 UTF-8",
    "this is not a ZIP file, or it was cut short": "这不是 ZIP 文件，或者已被截断",
    "{path!r} changed while it was being packed; run the command again": (
        "{path!r} 在打包时发生了变化，请重新运行命令"
    ),
    "{path!r} claims {size} bytes in {compressed}: a bomb, or a false size": (
        "{path!r} 声称 {compressed} 字节中有 {size} 字节：是压缩炸弹，或大小有误"
    ),
    "{path!r} has a local header that contradicts the ZIP file's directory": (
        "{path!r} 的本地头与 ZIP 文件的目录矛盾"
    ),
    "{path!r} is a device, a socket or another special file": (
        "{path!r} 是设备、套接字或其他特殊文件"
    ),
    "{path!r} is encrypted or compressed with method {method}; only stored and deflated entries "
    "are read": "{path!r} 已加密或使用压缩方法 {method}；只支持存储和 deflate 条目",
    "{path!r} is not where the ZIP file's directory says": "{path!r} 不在 ZIP 文件目录所说的位置",
    "{path!r} lacks its ZIP64 size or offset": "{path!r} 缺少其 ZIP64 大小或偏移",
    "{path!r} overlaps what comes after it": "{path!r} 与其后的内容重叠",
    # tokens and users
    "a name has 1 to 64 printable characters, not {name!r}": (
        "名称必须是 1 到 64 个可打印字符，而不是 {name!r}"
    ),
    "the password is empty": "密码为空",
    "there is a token {name!r} already; choose another name or revoke it first": (
        "已有令牌 {name!r}；请换一个名称，或先吊销它"
    ),
    "there is a user {name!r} already; choose another name": "已有用户 {name!r}，请换一个名称",
    "a password has at least {count} characters": "密码至少有 {count} 个字符",
    "one user must be left who can log in": "必须至少保留一个可以登录的用户",
    "there is no user {name!r}": "没有用户 {name!r}",
    "there is no token {name!r}": "没有令牌 {name!r}",
}
