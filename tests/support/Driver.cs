// Drives Mpchat.cs for tests/processes/test_csharp_client.py, and is compiled together with it.
//
// Reads a command a line, and prints a line for each event: a word, then key=value, all texts as base64 of UTF-8.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Reflection;
using System.Text;
using System.Threading;
using Mpchat;

static class Driver {
    // Milliseconds, longer than Dispose takes.
    const int SlowSource = 3000;
    static int main;
    // The number of the next text of Fill.
    static int filled;

    static int Main(string[] args) {
        main = Thread.CurrentThread.ManagedThreadId;
        if (args[0] == "parts") return Parts();
        return Talk(args);
    }

    // A chat: HOST PORT [NAME [ROOM [TOKEN [DRAWN [PROOF...]]]]]; DRAWN is the random number of each wait, in [0, 1).
    // A PROOF is KIND=TEXT. For the kind source the text has an answer for each call, with commas between. For the
    // kind file it is a path, and each call reads the token there.

    static int Talk(string[] args) {
        Queue<string> lines = new Queue<string>();
        bool ended = false, polling = true;
        Thread input = new Thread(() => {
            string line;
            while ((line = Console.In.ReadLine()) != null) lock (lines) lines.Enqueue(line);
            lock (lines) ended = true;
        }) { IsBackground = true };
        input.Start();
        string host = args[0], name = Given(args, 2), room = Given(args, 3) ?? "lobby", token = Given(args, 4);
        int port = int.Parse(args[1]);
        string drawn = Given(args, 5);
        Proof proof = ProofOf(args);
        Chat chat;
        if (proof != null) Print("proof", "shown", Shown(proof));
        try {
            chat = drawn == null
                ? new Chat(host, port, name, room, token, proof)
                : new Chat(host, port, name, room, token, proof,
                    () => double.Parse(drawn, CultureInfo.InvariantCulture));
        } catch (Exception error) {
            Print("thrown", "type", error.GetType().Name, "text", error.ToString());
            input.Join();
            return 0;
        }
        Listen(chat);
        while (true) {
            string line = null;
            lock (lines) {
                if (lines.Count > 0) line = lines.Dequeue();
                else if (ended) break;
            }
            if (line != null && !Obey(chat, line.Split(' '), ref polling)) break;
            if (polling) chat.Poll();
            if (line == null) Thread.Sleep(2);
        }
        chat.Dispose();
        return 0;
    }

    static string Given(string[] args, int index) {
        return index < args.Length && args[index] != "" ? args[index] : null;
    }

    static Proof ProofOf(string[] args) {
        if (args.Length <= 6) return null;
        Proof proof = new Proof();
        for (int index = 6; index < args.Length; index++) {
            string[] pair = args[index].Split(new[] { '=' }, 2);
            switch (pair[0]) {
                case "password": proof.Password = pair[1]; break;
                case "jwt": proof.Jwt = pair[1]; break;
                case "secret": proof.Secret = pair[1]; break;
                case "file": proof.JwtSource = () => File.ReadAllText(pair[1]).Trim(); break;
                default: proof.JwtSource = SourceOf(pair[1].Split(',')); break;
            }
        }
        return proof;
    }

    // Returns the answers one after the other, the last one again and again. "throw" throws, "none" is null. "slow"
    // takes its time.
    static Func<string> SourceOf(string[] answers) {
        int asked = 0;
        return () => {
            string answer = answers[Math.Min(asked++, answers.Length - 1)];
            if (answer.StartsWith("throw")) throw new IOException(answer);
            if (answer == "slow") {
                Console.WriteLine("slow call=" + Encoded("" + asked));
                Console.Out.Flush();
                Thread.Sleep(SlowSource);
                Console.WriteLine("awake");
            }
            return answer == "none" ? null : answer;
        };
    }

    static bool Obey(Chat chat, string[] words, ref bool polling) {
        switch (words[0]) {
            case "say": Answer(() => chat.Say(Decoded(words[1]))); break;
            case "tell": Answer(() => chat.Tell(Decoded(words[1]), Decoded(words[2]))); break;
            case "enter": Answer(() => chat.Enter(Decoded(words[1]))); break;
            case "who": Answer(() => chat.Who(words.Length > 1 ? Decoded(words[1]) : null)); break;
            case "rooms": Answer(() => chat.Rooms()); break;
            case "renew": Answer(() => words.Length > 1 ? chat.Renew(Decoded(words[1])) : chat.Renew()); break;
            case "kick": Answer(() => chat.Kick(Decoded(words[1]))); break;
            case "ban": Answer(() => chat.Ban(Decoded(words[1]), Seconds(words))); break;
            case "unban": Answer(() => chat.Unban(Decoded(words[1]))); break;
            case "mute": Answer(() => chat.Mute(Decoded(words[1]), Seconds(words))); break;
            case "unmute": Answer(() => chat.Unmute(Decoded(words[1]))); break;
            case "close": Answer(() => chat.CloseRoom(Decoded(words[1]))); break;
            case "queued": Print("taken", "value", chat.Queued); break;
            case "half": Answer(() => chat.Say("\ud83d")); break;
            case "hold": polling = false; break;
            case "poll": polling = true; break;
            case "fill": Fill(chat, Decoded(words[1])); break;
            case "state":
                Print("state", "state", chat.State, "name", chat.Name, "room", chat.Room, "token", chat.Token,
                    "role", chat.Role, "expires", chat.Expires, "shown", Shown(chat));
                break;
            case "dispose":
                Stopwatch watch = Stopwatch.StartNew();
                chat.Dispose();
                Print("disposed", "ms", watch.ElapsedMilliseconds, "events", chat.Poll());
                while (!chat.ThreadsEnded) Thread.Sleep(1);
                Print("ended", "ms", watch.ElapsedMilliseconds);
                break;
            default: return false;
        }
        return true;
    }

    static int? Seconds(string[] words) {
        return words.Length > 2 ? int.Parse(Decoded(words[2]), CultureInfo.InvariantCulture) : (int?)null;
    }

    // All that an object shows of itself: its text, and what can be read of it from outside.
    static string Shown(object each) {
        StringBuilder text = new StringBuilder(each.ToString());
        foreach (PropertyInfo property in each.GetType().GetProperties()) {
            MethodInfo getter = property.GetGetMethod();
            if (getter != null) text.Append(' ').Append(property.Name).Append('=').Append(getter.Invoke(each, null));
        }
        return text.ToString();
    }

    static void Answer(Func<bool> call) {
        try {
            Print("taken", "value", call());
        } catch (Exception error) {
            Print("thrown", "type", error.GetType().Name, "text", error.Message);
        }
    }

    // Says a text, with a number before it, until the queue is full.
    static void Fill(Chat chat, string text) {
        while (chat.Say(filled + text)) filled++;
        Print("filled", "count", filled);
    }

    static void Listen(Chat chat) {
        chat.OnConnected += e => Print("connected", "address", e.Address, "again", e.Again);
        chat.OnDisconnected += e => Print("disconnected", "reason", e.Reason, "retrying", e.Retrying,
            "unsure", e.Unsure, "unsent", e.Unsent);
        chat.OnWelcome += e => Print("welcome", "name", e.Name, "room", e.Room, "seq", e.Seq, "members", e.Members,
            "recovered", e.Recovered, "token", e.Token, "role", e.Role, "expires", e.Expires);
        chat.OnMessage += e => PrintMessage("message", e);
        chat.OnPrivate += e => PrintMessage("private", e);
        chat.OnJoined += e => PrintNotice("joined", e);
        chat.OnLeft += e => PrintNotice("left", e);
        chat.OnLost += e => Print("lost", "room", e.Room, "first", e.First, "last", e.Last);
        chat.OnWho += e => Print("who", "room", e.Room, "names", string.Join(" ", e.Names), "members", e.Members,
            "next", e.Next);
        chat.OnRooms += e => {
            List<string> sizes = new List<string>();
            foreach (RoomSize each in e.Rooms) sizes.Add(each.Room + ":" + each.Members);
            Print("rooms", "rooms", string.Join(" ", sizes), "count", e.Count, "next", e.Next);
        };
        chat.OnModerated += e => Print("moderated", "action", e.Action, "target", e.Target, "count", e.Count);
        chat.OnError += e => Print("error", "code", e.Code, "text", e.Text, "times", e.Times, "unsent", e.Unsent,
            "proofs", Joined(e.Proofs));
        chat.OnRejected += e => Print("rejected", "name", e.Name, "room", e.Room, "code", e.Code, "text", e.Text,
            "retrying", e.Retrying, "proofs", Joined(e.Proofs));
    }

    static string Joined(IList<string> proofs) {
        return proofs.Count == 0 ? null : string.Join(" ", proofs);
    }

    static void PrintMessage(string word, Message e) {
        Print(word, "text", e.Text, "sender", e.Sender, "room", e.Room, "seq", e.Seq, "at", e.At, "to", e.To);
    }

    static void PrintNotice(string word, Notice e) {
        Print(word, "room", e.Room, "names", string.Join(" ", e.Names), "count", e.Count, "members", e.Members,
            "reason", e.Reason);
    }

    // Parts of the client, against Python's: a line of input each, answered with a line.

    static int Parts() {
        string line;
        while ((line = Console.In.ReadLine()) != null) {
            string[] words = line.Split(' ');
            if (words[0] == "json") Console.WriteLine(Encoded(ReadJson(Convert.FromBase64String(words[1]))));
            else if (words[0] == "frame") Console.WriteLine(WriteJson(Decoded(words[1])));
            else if (words[0] == "track") Console.WriteLine(Followed(words));
            else if (words[0] == "delay") Console.WriteLine(Delay(words[1], words[2]));
        }
        return 0;
    }

    static string ReadJson(byte[] payload) {
        StringBuilder text = new StringBuilder();
        try {
            Append(text, JsonReader.Read(new ArraySegment<byte>(payload)));
        } catch (FormatException) {
            return "wrong";
        }
        return text.ToString();
    }

    static void Append(StringBuilder text, object value) {
        if (value is Dictionary<string, object>) {
            string comma = "{";
            foreach (KeyValuePair<string, object> each in (Dictionary<string, object>)value) {
                text.Append(comma);
                Append(text, each.Key);
                text.Append(":");
                Append(text, each.Value);
                comma = ",";
            }
            text.Append(comma == "{" ? "{}" : "}");
        } else if (value is List<object>) {
            string comma = "[";
            foreach (object each in (List<object>)value) {
                text.Append(comma);
                Append(text, each);
                comma = ",";
            }
            text.Append(comma == "[" ? "[]" : "]");
        } else if (value is string) {
            text.Append('"');
            foreach (char each in (string)value) text.AppendFormat("\\u{0:x4}", (int)each);
            text.Append('"');
        } else if (value is bool) {
            text.Append((bool)value ? "true" : "false");
        } else if (value is double) {
            text.Append(((double)value).ToString("R", CultureInfo.InvariantCulture));
        } else {
            text.Append(value == null ? "null" : value.ToString());
        }
    }

    static string WriteJson(string text) {
        return Convert.ToBase64String(new Json().Begin().Field("message", text).End().Frame());
    }

    static string Delay(string attempt, string drawn) {
        CultureInfo invariant = CultureInfo.InvariantCulture;
        return Chat.Delay(int.Parse(attempt, invariant), double.Parse(drawn, invariant)).ToString("R", invariant);
    }

    // join,EPOCH,SEQ  resume,EPOCH,SEQ,RECOVERED,FIRST,LAST  take,SEQ; FIRST and LAST may be "-"
    static string Followed(string[] words) {
        Track track = new Track();
        List<string> said = new List<string>();
        for (int index = 1; index < words.Length; index++) {
            string[] step = words[index].Split(',');
            long first = 0, until = 0;
            long? last = null;
            if (step[0] == "take") {
                bool isNew = track.Take(long.Parse(step[1]), out first, out until);
                said.Add(isNew + (isNew && first <= until ? "," + first + "," + until : ""));
            } else {
                Welcome welcome = new Welcome { Epoch = step[1], Seq = long.Parse(step[2]) };
                if (step[0] == "join") {
                    track.Join(welcome);
                    said.Add("joined");
                } else {
                    welcome.Recovered = step[3] == "True";
                    welcome.HasLost = step[4] != "-";
                    if (welcome.HasLost) welcome.LostFirst = long.Parse(step[4]);
                    if (step[5] != "-") welcome.LostLast = long.Parse(step[5]);
                    bool gap = track.Resume(welcome, out first, out last);
                    said.Add(gap ? first + "," + (last == null ? "None" : last.ToString()) : "None");
                }
            }
            said.Add(track.After.ToString());
            said.Add(track.Epoch);
        }
        return string.Join(" ", said);
    }

    static string Encoded(string text) {
        return Convert.ToBase64String(Encoding.UTF8.GetBytes(text));
    }

    static string Decoded(string word) {
        return Encoding.UTF8.GetString(Convert.FromBase64String(word));
    }

    static void Print(string word, params object[] pairs) {
        StringBuilder line = new StringBuilder(word);
        if (Thread.CurrentThread.ManagedThreadId != main) line.Append(" astray=MQ==");
        for (int index = 0; index < pairs.Length; index += 2) {
            if (pairs[index + 1] == null) continue;
            string value = Convert.ToString(pairs[index + 1], CultureInfo.InvariantCulture);
            line.Append(' ').Append(pairs[index]).Append('=').Append(Encoded(value));
        }
        Console.WriteLine(line);
        Console.Out.Flush();
    }
}
