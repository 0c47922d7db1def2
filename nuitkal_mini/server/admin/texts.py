"""The site's texts in Chinese, by their English text; `..messages` has those of errors."""

from __future__ import annotations

CHINESE_TEXTS = {
    # the frame
    "Skip to the content": "跳到正文",
    "Pages": "页面",
    "Channel": "通道",
    "Switch": "切换",
    "Log out": "退出",
    "never": "从未",
    "Releases": "版本",
    "Upload": "上传",
    "Installed versions": "已安装版本",
    "Tokens": "令牌",
    "Users": "用户",
    "Log": "日志",
    "Overview": "概览",
    "That did not work": "操作未成功",
    "Log in": "登录",
    "User": "用户",
    "Password": "密码",
    "The user or the password is wrong.": "用户名或密码错误。",
    # what has happened
    "Version {version} was uploaded.": "版本 {version} 已上传。",
    "Version {version} was uploaded, and is not active: it lost its main program.": (
        "版本 {version} 已上传，但未激活：它缺少主程序。"
    ),
    "Version {version} is active now.": "版本 {version} 现已激活。",
    "Version {version} is active now. It is older than the one before: clients go back to it, "
    "those with public keys stay where they are.": (
        "版本 {version} 现已激活。它比之前的版本旧：客户端会回退到该版本，"
        "配置了公钥的客户端保持不变。"
    ),
    "No version is active now: clients find no update.": "现在没有激活的版本：客户端找不到更新。",
    "Version {version} was deleted.": "版本 {version} 已删除。",
    "Saved.": "已保存。",
    "Version {version} is in this channel now.": "版本 {version} 现已在此通道中。",
    "The token {version} was revoked.": "令牌 {version} 已吊销。",
    "The user {version} was added.": "用户 {version} 已添加。",
    "The user {version} was changed.": "用户 {version} 已更改。",
    # releases
    "Search": "搜索",
    "Upload a release": "上传版本",
    "Version": "版本",
    "Changelog": "更新日志",
    "Size": "大小",
    "Files": "文件",
    "Uploaded": "上传时间",
    "Signed by": "签名密钥",
    "Seen in 7 days": "7 天内请求",
    "Actions": "操作",
    "active": "已激活",
    "Activate": "激活",
    "Deactivate": "停用",
    "Delete": "删除",
    "Roll back": "回滚",
    "files": "个文件",
    "seen in 7 days": "次请求（7 天）",
    "After a roll back to an older version, clients go back to it; those with public keys stay "
    "where they are.": "回滚到较旧的版本后，客户端会回退到该版本；配置了公钥的客户端保持不变。",
    "Previous": "上一页",
    "Next": "下一页",
    "More releases": "更多版本",
    "No release has these words in its version or changelog.": (
        "没有版本的版本号或更新日志包含这些文字。"
    ),
    "Nothing has been published in this channel. Upload a ZIP here, or publish a folder from "
    "your machine with a token:": (
        "此通道中还没有发布任何版本。可以在这里上传 ZIP，或者用令牌从您的电脑发布一个文件夹："
    ),
    "Make a token": "创建令牌",
    # a release
    "App": "应用",
    "Package": "更新包",
    "Unpacked": "解压后",
    "SHA-256": "SHA-256",
    "Deltas, which clients download in place of the package:": "增量包（客户端用它代替完整包）：",
    "from {version}: {size}, {percent} % of the package": (
        "从 {version} 起：{size}，为完整包的 {percent}%"
    ),
    "Download the ZIP": "下载 ZIP",
    "Download the manifest": "下载清单",
    "Download the signature": "下载签名",
    "Edit": "编辑",
    "Save": "保存",
    "Another signature of the manifest (.minisig)": "清单的另一个签名（.minisig）",
    "Put it into another channel": "放入另一个通道",
    "To the channel": "目标通道",
    "and make it the active version there": "并在那里设为激活版本",
    "Promote": "放入",
    "This version is older than the active {active}. When it is activated, clients go back to "
    "it; clients with public keys stay where they are.": (
        "此版本比已激活的 {active} 旧。激活后，客户端会回退到此版本；配置了公钥的客户端保持不变。"
    ),
    "Version {version} ({size}, {files} files) of the channel {channel} and its download "
    "addresses will be gone. The version can only come back with the same files.": (
        "通道 {channel} 的版本 {version}（{size}，{files} "
        "个文件）及其下载地址将被删除。该版本以后只能以相同的文件重新发布。"
    ),
    "The release before, {before}, has the main program {main}; this one has neither it nor "
    "another one. Clients will refuse it and stay with what they have.": (
        "之前的版本 {before} 有主程序 {main}；此版本既没有它，也没有其他主程序。"
        "客户端会拒绝此版本并保持现有版本。"
    ),
    "Delete version {version}": "删除版本 {version}",
    "Keep it": "保留",
    "Back": "返回",
    "Version {version} is active and cannot be deleted. Activate another version first, or "
    "deactivate this one.": "版本 {version} 已激活，无法删除。请先激活其他版本，或停用此版本。",
    "Name": "名称",
    "Change": "更改",
    "{files} files, {size}.": "{files} 个文件，{size}。",
    "Against {before}: {added} new, {changed} changed, {removed} removed.": (
        "与 {before} 相比：新增 {added}，更改 {changed}，删除 {removed}。"
    ),
    "new": "新增",
    "changed": "更改",
    "removed": "删除",
    "{count} more are in the manifest.": "另有 {count} 项，见清单。",
    # upload
    "Package (ZIP): choose a file or drop it here": "更新包（ZIP）：选择文件或拖放到此处",
    "Make it the active version: clients will install it": "设为激活版本：客户端将会安装它",
    "Main program, such as main/main.bin (optional)": "主程序，例如 main/main.bin（可选）",
    "Manifest and signature (optional)": "清单和签名（可选）",
    "Manifest (.json): then the ZIP may leave out what the server has": (
        "清单（.json）：有清单时，ZIP 可以省略服务器已有的文件"
    ),
    "Signature of the manifest (.minisig)": "清单的签名（.minisig）",
    "Sending": "正在发送",
    "The connection broke; nothing was uploaded.": "连接中断，没有上传任何内容。",
    # installed versions
    "Versions": "版本",
    "30 days": "30 天",
    "7 days": "7 天",
    "Today": "今天",
    "Share today": "今日占比",
    "others": "其他",
    "Day": "日期",
    "Days": "每日",
    "Requests for updates in the last 30 days, by installed version": (
        "最近 30 天的更新请求，按已安装版本"
    ),
    "How often clients asked for updates, by the version they have installed. A client asks at "
    "each start; who asks is not recorded.": (
        "客户端请求更新的次数，按其已安装版本统计。客户端每次启动时请求一次；不记录请求者。"
    ),
    "The chart's figures, day by day": "图表数据（按日）",
    "No client of this channel has asked for updates in the last 30 days. Clients that do are "
    "counted by their installed version; who they are is not recorded.": (
        "最近 30 天没有此通道的客户端请求更新。请求会按已安装版本统计；不记录请求者。"
    ),
    "The active version {version} has {share} of the requests.": (
        "激活版本 {version} 占请求的 {share}。"
    ),
    "It has not reached half of them yet.": "尚未达到一半。",
    "It had half of them on its first day.": "第一天即达到一半。",
    "It took {days} days to reach half of them.": "用了 {days} 天达到一半。",
    # tokens and users
    "Name of a new token, such as the machine that will use it": (
        "新令牌的名称，例如将要使用它的机器"
    ),
    "Created": "创建时间",
    "Last used": "上次使用",
    "Revoke": "吊销",
    "This is the token {name}. It is shown only now: copy it to where it will be used.": (
        "这是令牌 {name}。它只显示这一次：请复制到使用它的地方。"
    ),
    "Add a user": "添加用户",
    "Password, at least 8 characters": "密码，至少 8 个字符",
    "Add": "添加",
    "Change a password": "更改密码",
    "It ends all sessions of the user.": "该用户的所有会话都会结束。",
    "disabled": "已禁用",
    "Disable": "禁用",
    "Enable": "启用",
    # the log and the overview
    "Who": "谁",
    "What": "操作",
    "When": "时间",
    "Details": "详情",
    "everything": "全部",
    "Show": "显示",
    "More lines": "更多记录",
    "Older": "更早",
    "Nothing of the kind has happened.": "没有这样的记录。",
    "upload": "上传",
    "promotion": "放入通道",
    "edit": "编辑",
    "activation": "激活",
    "deactivation": "停用",
    "deletion": "删除",
    "login": "登录",
    "failed login": "登录失败",
    "logout": "退出",
    "new token": "新令牌",
    "revoked token": "吊销令牌",
    "new user": "新用户",
    "new password": "新密码",
    "disabled user": "禁用用户",
    "enabled user": "启用用户",
    "Disk": "磁盘",
    "Packages": "更新包",
    "Free": "可用空间",
    "Files in all releases": "所有版本的文件",
    "Different contents": "不同内容",
    "Shared between releases": "版本间共享",
    "Channels": "通道",
    "Active version": "激活版本",
    "Failed logins": "登录失败",
    "From": "来自",
    "{day} in the last 24 hours, {week} in the last 7 days.": (
        "最近 24 小时 {day} 次，最近 7 天 {week} 次。"
    ),
}
